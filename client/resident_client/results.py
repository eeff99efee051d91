"""What the client returns. Fields that a newer service adds are ignored."""

from array import array
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """One class of an image, with its probability."""

    label: str
    index: int
    score: float


@dataclass(frozen=True)
class ImageFailure:
    """Why one image of a request has no result.

    Attributes:
        code: The stable code of the service, or `unreadable_input` if the image was not sent.
        detail: The explanation for people.
        status: The HTTP status that the service gives the error; None if the image was not sent.
    """

    code: str
    detail: str
    status: int | None = None


@dataclass(frozen=True)
class Result:
    """The outcome of one image.

    Attributes:
        model: The model that answered; empty if the image was not sent.
        version: The number of its version.
        predictions: The classes, most probable first. Empty if the image failed.
        labels: With `coverage`: the set that contains the correct label with that probability.
        abstained: Whether the image is unlike the training data; None if the model cannot tell.
        reason: Why the model abstained.
        embedding: With `embedding=True`: float32 `[dims]`, as in `Embedding`.
        error: Why the image failed; None if it did not.
    """

    model: str
    version: int
    predictions: tuple[Prediction, ...] = ()
    labels: tuple[str, ...] | None = None
    abstained: bool | None = None
    reason: str | None = None
    embedding: "array[float] | None" = None
    error: ImageFailure | None = None

    @property
    def label(self) -> str:
        """The most probable label. Raises ValueError if the image failed."""
        return self._best().label

    @property
    def score(self) -> float:
        """The probability of the most probable label. Raises ValueError if the image failed."""
        return self._best().score

    def _best(self) -> Prediction:
        if self.error:
            raise ValueError(f"the image has no result: {self.error.code}: {self.error.detail}")
        return self.predictions[0]


@dataclass(frozen=True)
class Embedding:
    """The embedding of one image.

    Attributes:
        model: The model that answered; empty if the image was not sent.
        version: The number of its version.
        values: float32 `[dims]`. `numpy.asarray(values)` shares its memory. Empty if it failed.
        error: Why the image failed; None if it did not.
    """

    model: str
    version: int
    values: "array[float]"
    error: ImageFailure | None = None


def read_result(model: str, version: int, document: dict[str, Any]) -> Result:
    """Read one entry of `results` in a response."""
    if "error" in document:
        return Result(model, version, error=read_failure(document["error"]))
    labels = document.get("labels")
    return Result(
        model,
        version,
        tuple(
            Prediction(entry["label"], entry["index"], entry["score"])
            for entry in document["predictions"]
        ),
        None if labels is None else tuple(labels),
        document.get("abstained"),
        document.get("reason"),
        array("f", document["embedding"]) if "embedding" in document else None,
    )


def read_embedding(model: str, version: int, document: dict[str, Any]) -> Embedding:
    """Read one entry of `results` in a response with embeddings."""
    if "error" in document:
        return fail_embedding(read_failure(document["error"]), model, version)
    return Embedding(model, version, array("f", document["embedding"]))


def fail_result(failure: ImageFailure) -> Result:
    """Return the result of an image for which no version answered."""
    return Result("", 0, error=failure)


def fail_embedding(failure: ImageFailure, model: str = "", version: int = 0) -> Embedding:
    """Return the outcome of an image without an embedding."""
    return Embedding(model, version, array("f"), failure)


def read_failure(document: dict[str, Any]) -> ImageFailure:
    """Read the error of one image in a response."""
    return ImageFailure(document["code"], document["detail"], document["status"])
