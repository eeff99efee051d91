"""Responses of the prediction and health routes, as the OpenAPI document describes them."""

from typing import Annotated, Literal

from pydantic import Field

from model_store.validation import DeferredModel


class Prediction(DeferredModel):
    """One class with its probability."""

    label: str
    index: Annotated[int, Field(description="Position in the model's `class_names`.")]
    score: Annotated[
        float,
        Field(ge=0, le=1, description="Probability; calibrated if the model has a calibration."),
    ]


class ItemError(DeferredModel):
    """Why one image of a request was not classified."""

    code: str
    status: int
    detail: str


class ExplainedImage(DeferredModel):
    """The size of the image once it is upright (EXIF orientation), in pixels."""

    width: int
    height: int


class ExplainedRegion(DeferredModel):
    """The part of the upright image that the model saw, in pixels. It may reach beyond it."""

    left: float
    top: float
    width: float
    height: float


class ExplainedLabel(DeferredModel):
    """Where the model looked for one label."""

    label: str
    index: int
    map: Annotated[
        list[list[float]] | None,
        Field(
            description="With `explain=map`: the class-activation map, in rows from the top of "
            "`region`. Its mean plus `bias` is the logit (Zhou et al. 2016), in "
            "INT8 within the rounding of its last layer."
        ),
    ] = None
    bias: float | None = None
    overlay: Annotated[
        str | None,
        Field(
            description="With `explain=overlay`: a PNG with transparency in base64, to be "
            "stretched over the upright image."
        ),
    ] = None


class Explanation(DeferredModel):
    """Where the model looked for each label of `predictions`."""

    image: ExplainedImage
    region: ExplainedRegion
    labels: list[ExplainedLabel]


class Result(DeferredModel):
    """The outcome of one image: its predictions, most probable first, or its error.

    Do not act on the predictions if the model abstained.
    """

    name: Annotated[
        str | None,
        Field(
            description="The file name or field of the image in a form, or its path in a ZIP "
            "archive."
        ),
    ] = None
    predictions: list[Prediction] | None = None
    labels: Annotated[
        list[str] | None,
        Field(
            description="With `coverage`: the prediction set, which contains the correct label "
            "with that probability. Most probable first."
        ),
    ] = None
    abstained: Annotated[
        bool | None,
        Field(
            description="Whether the image is unlike the training data. Models without an energy "
            "threshold omit it."
        ),
    ] = None
    reason: Annotated[str | None, Field(description="Why the model abstained.")] = None
    embedding: Annotated[
        list[float] | None,
        Field(
            description="With `embedding`: the pooled features before the last layer, "
            "`embedding_dims` numbers (float32)."
        ),
    ] = None
    explanation: Annotated[
        Explanation | None, Field(description="With `explain`: where the model looked.")
    ] = None
    error: ItemError | None = None


class Timings(DeferredModel):
    """Time of the stages in milliseconds; with several images, of the slowest one."""

    receive_ms: float
    decode_ms: float
    queue_ms: float
    inference_ms: float
    total_ms: float


class PredictResponse(DeferredModel):
    """One result per image, in the order of the request."""

    model: str
    version: int
    results: list[Result]
    timings: Timings


class EmbeddingResult(DeferredModel):
    """The outcome of one image: its embedding or its error."""

    name: Annotated[
        str | None,
        Field(description="The file name or field of the image in a form."),
    ] = None
    embedding: Annotated[
        list[float] | None,
        Field(
            description="The pooled features before the last layer, `embedding_dims` numbers "
            "(float32)."
        ),
    ] = None
    error: ItemError | None = None


class EmbedResponse(DeferredModel):
    """One embedding per image, in the order of the request."""

    model: str
    version: int
    results: list[EmbeddingResult]
    timings: Timings


class Problem(DeferredModel):
    """An error as RFC 9457 problem details. Match on `code`, which is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ItemError] | None = None


class Health(DeferredModel):
    """Whether the service is up and may receive traffic."""

    status: Literal["live", "not live", "ready", "not ready"]
    reason: str | None = None
