"""The values that describe one prediction request, independent of its protocol."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from model_store.errors import ImageError
from model_store.preprocessing import Pixels
from service.engine.extras import EMBEDDING, FEATURES, Extras
from service.engine.priority import INTERACTIVE, Priority
from service.engine.queued_image import ImageResult
from service.errors import OverloadedError, RejectionReason, ServiceError

if TYPE_CHECKING:
    from service.tracing import RequestTrace

DEFAULT_TOP_K: Final = 5
EncodedImage = bytes | ServiceError
"""An encoded image, or the error that takes its place in the response."""


@dataclass(slots=True)
class RequestImages:
    """The images of a body in order, and their names if the body has names."""

    images: list[EncodedImage]
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)  # not frozen: that would double the time to create one
class PredictRequest:
    """Images to classify with a leased version.

    Attributes:
        images: Encoded images in the order of the response; or pixels, which need no decoding:
            uint8 `[images, crop_height, crop_width, 3]`, RGB.
        top_k: Number of classes to return for each image.
        coverage_index: Index into `LoadedVersion.coverages`; None returns no prediction sets.
        timeout_seconds: Counted from the start of the request; capped by the version's deadline.
        priority: Interactive images are run before bulk images.
        names: The name of each image if the body has names, otherwise empty.
        embedding: Whether the embedding of each image is wanted too.
        explain: Which explanation of each answer is wanted too.
    """

    images: Sequence[EncodedImage] | Pixels
    top_k: int = DEFAULT_TOP_K
    coverage_index: int | None = None
    timeout_seconds: float = math.inf
    priority: Priority = INTERACTIVE
    names: Sequence[str] = ()
    embedding: bool = False
    explain: Literal["map", "overlay"] | None = None

    @property
    def extras(self) -> Extras:
        """The outputs of the model that the request needs beside the scores."""
        return EMBEDDING * self.embedding | FEATURES * (self.explain is not None)


@dataclass(slots=True)
class RequestRecord:
    """What is logged and counted about a request. It is filled in step by step.

    After an error it is incomplete. `seconds` is keyed by stage: receive, decode, queue, inference.
    `rejection` is set if the request was rejected because of load, `trace` if requests are traced.
    """

    started: float = field(default_factory=time.monotonic)
    model: str = ""
    version: int = 0
    digest: str = ""
    images: int = 0
    failed_images: int = 0
    rejection: RejectionReason | None = None
    trace: "RequestTrace | None" = None
    seconds: dict[str, float] = field(default_factory=dict)

    def set_error(self, error: BaseException) -> None:
        if isinstance(error, OverloadedError):
            self.rejection = error.reason


@dataclass(slots=True)
class ImageOutcome:
    """The result or the error of one image.

    `size` is the width and the height of the upright image, if it was decoded.
    """

    result: ImageResult | ServiceError | ImageError
    decode_seconds: float
    size: tuple[int, int] | None = None
