"""The shapes of answers, for the OpenAPI document and for the model routes."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field


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


class Health(BaseModel):
    """Whether the service is up, and what it waits for."""

    status: Literal["live", "ready", "not ready"]
    reason: str | None = None
