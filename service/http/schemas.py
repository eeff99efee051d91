"""The shapes of answers, for the OpenAPI document and for the model routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from model_store.manifest import Calibration, Check, Input, Precision, Preprocessing
from model_store.provenance import Imported, Metrics, Training, VersionReference


class Prediction(BaseModel):
    """One class with its probability."""

    label: str
    index: Annotated[int, Field(description="Position in the model's class_names.")]
    score: Annotated[
        float, Field(ge=0, le=1, description="Probability, calibrated where the model is.")
    ]


class ItemError(BaseModel):
    """Why one image of a batch has no predictions."""

    code: str
    status: int
    detail: str


class Result(BaseModel):
    """One image's outcome: predictions, best first, or its error.

    Where a model abstains the predictions are what it would have said, and nothing to act on.
    """

    predictions: list[Prediction] | None = None
    labels: Annotated[
        list[str] | None,
        Field(
            description="With `coverage`: the set that holds the right label with that probability, the most probable first."
        ),
    ] = None
    abstained: Annotated[
        bool | None,
        Field(
            description="Whether the image is unlike what the model was trained on. Only of models that can tell."
        ),
    ] = None
    reason: Annotated[str | None, Field(description="Why the model abstained.")] = None
    error: ItemError | None = None


class Timings(BaseModel):
    """Where the time went, in milliseconds; of several images the slowest counts."""

    receive_ms: float
    decode_ms: float
    queue_ms: float
    inference_ms: float
    total_ms: float


class PredictResponse(BaseModel):
    """The answer: one result an image, in the order of the request."""

    model: str
    version: int
    results: list[Result]
    timings: Timings


class Problem(BaseModel):
    """An error as RFC 9457 problem details. `code` is stable: match on it, not on words."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ItemError] | None = None


class ModelSummary(BaseModel):
    """A model in the list."""

    model: str
    state: Literal["loading", "ready", "unloading", "unloaded", "error"]
    version: Annotated[int | None, Field(description="What answers where no version is named.")]
    digest: str | None
    proof: Annotated[
        Literal["proven", "unproven"] | None,
        Field(description="Whether labelled images speak for the version that serves."),
    ] = None
    precision: Annotated[Precision | None, Field(description="Of the variant that answers.")]
    default: bool


class ModelList(BaseModel):
    """Every model of the store."""

    models: list[ModelSummary]


class VersionState(BaseModel):
    """A version in the store or in this process, and why it does not serve if it was tried."""

    version: int
    state: Annotated[
        Literal["loading", "ready", "unloading", "error", "available"],
        Field(description="`available` lies in the store, and nothing asks for it."),
    ]
    reason: str | None = None
    held: Annotated[
        Literal["load", "unload"] | None,
        Field(description="What an operator said of it on this replica; until taken back."),
    ] = None


class VariantDetail(BaseModel):
    """One file of the version that serves, in its precision."""

    precision: Precision
    serving: bool
    tolerance: Annotated[
        float,
        Field(
            description="How far a golden image's logit may be from the one expected of this file."
        ),
    ]
    milliseconds: Annotated[
        tuple[float, ...] | None,
        Field(
            description="Of a batch of 1 and of 8 here, where variants were measured beside each other."
        ),
    ] = None
    reason: Annotated[str | None, Field(description="Why it can not serve here.")] = None
    gate: list[Check]


class ModelDetail(ModelSummary):
    """What a model's serving version is, where it comes from and what its gates found."""

    layer: Literal["published", "built-in"] | None = None
    reason: Annotated[
        str | None, Field(description="What is wrong, where it is not one version's fault.")
    ] = None
    versions: list[VersionState]
    aliases: Annotated[
        dict[str, int | None] | None,
        Field(description="Where each points; null where its newest event can not be read."),
    ]
    version_policy: Annotated[
        str | None, Field(description="Which of its versions this replica serves.")
    ] = None
    class_names: list[str] | None = None
    input: Input | None = None
    preprocessing: Preprocessing | None = None
    max_batch_size: int | None = None
    can_abstain: Annotated[
        bool | None, Field(description="Whether it says where an image is unlike what it knows.")
    ] = None
    coverages: Annotated[
        list[float] | None, Field(description="What `coverage` may be when predicting.")
    ] = None
    calibration: Calibration | None = None
    metrics: Metrics | None = None
    gate: list[Check] | None = None
    precision_note: Annotated[
        str | None, Field(description="Why another precision than SERVICE_PRECISION names answers.")
    ] = None
    variants: list[VariantDetail] | None = None
    training: Training | None = None
    imported: Imported | None = None
    derived_from: VersionReference | None = None


class Health(BaseModel):
    """Whether the service is up, and what it waits for."""

    status: Literal["live", "ready", "not ready"]
    reason: str | None = None
