"""An inference request in any form of the protocol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from model_store.preprocessing import Pixels
from service.prediction.request import EncodedImage, PredictRequest
from service.protocols.open_inference.outputs import EMBEDDING
from service.protocols.open_inference.parameters import NO_SCHEDULE, InferSchedule, RequestedOutput


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a client asks for."""

    images: Sequence[EncodedImage] | Pixels
    outputs: Sequence[RequestedOutput]
    schedule: InferSchedule = NO_SCHEDULE
    request_id: str | None = None

    def to_predict_request(self, timeout_seconds: float = math.inf) -> PredictRequest:
        """The request for the pipeline, with its own timeout or that of the protocol."""
        return PredictRequest(
            self.images,
            timeout_seconds=min(self.schedule.timeout_seconds, timeout_seconds),
            priority=self.schedule.priority,
            embedding=any(output.name == EMBEDDING for output in self.outputs),
        )
