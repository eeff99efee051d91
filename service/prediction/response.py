"""The response document: ranked predictions, abstention and prediction sets of each image."""

import time
from collections.abc import Sequence
from typing import Any

from service.engine.batcher import ImageResult
from service.engine.classification import Classification
from service.errors import describe
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord


def build_response(
    outcomes: Sequence[ImageOutcome],
    request: PredictRequest,
    record: RequestRecord,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """The response of the image API, as `PredictResponse` in `service.http.schemas` declares it."""
    results = [
        describe_image(outcome.result.row, class_names, request.top_k, request.coverage_index)
        if isinstance(outcome.result, ImageResult)
        else {"error": describe(outcome.result)}
        for outcome in outcomes
    ]
    timings = {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in record.seconds.items()}
    timings["total_ms"] = round((time.monotonic() - record.started) * 1e3, 3)
    return {
        "model": record.model,
        "version": record.version,
        "results": results,
        "timings": timings,
    }


def describe_image(
    classification: Classification,
    class_names: Sequence[str],
    top_k: int,
    coverage_index: int | None = None,
) -> dict[str, Any]:
    """The result of one image.

    Args:
        classification: The classes of the image, most probable first.
        class_names: The label of each class.
        top_k: Number of predictions.
        coverage_index: Index of the prediction set to add as `labels`.
    """
    indices = classification.indices
    best = zip(indices[:top_k], classification.scores[:top_k], strict=True)
    result: dict[str, Any] = {
        "predictions": [
            {"label": class_names[index], "index": index, "score": score} for index, score in best
        ]
    }
    if coverage_index is not None:
        size = classification.set_sizes[coverage_index]
        result["labels"] = [class_names[index] for index in indices[:size]]
    if classification.abstention_reason is not None:
        result["abstained"] = bool(classification.abstention_reason)
        if classification.abstention_reason:
            result["reason"] = classification.abstention_reason
    return result
