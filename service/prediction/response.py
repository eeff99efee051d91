"""The response document: ranked predictions, abstention and prediction sets of each image."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from service.engine.classification import Classification
from service.engine.queued_image import ImageResult
from service.errors import describe
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord

MAX_LABELS_IN_EVENT_LOOP: Final = 2000
"""The event loop builds responses of up to so many labels, which takes 1 to 2 ms."""
NUMBERS_PER_LABEL: Final = 10
"""Numbers of an embedding that take about as long as one label."""


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Encode image by image, so that other threads run in between: orjson keeps the GIL."""
    results = document["results"]
    if len(results) > 1:
        results = [orjson.Fragment(orjson.dumps(result)) for result in results]
    return orjson.dumps({**document, "results": results}, option=orjson.OPT_APPEND_NEWLINE)


async def encode_response(
    outcomes: Sequence[ImageOutcome],
    request: PredictRequest,
    record: RequestRecord,
    class_names: Sequence[str],
    encode: Callable[[dict[str, Any]], bytes] = encode_json,
    explanations: Sequence[dict[str, Any] | None] | None = None,
) -> bytes:
    """The response of the image API. A large one is built in a thread.

    Args:
        outcomes: One for each image.
        request: What was asked for.
        record: The model, the version and the times of the stages.
        class_names: The label of each class.
        encode: Encodes the document that `build_response` returns.
        explanations: Of each image, if the request asks for them.
    """

    def build() -> bytes:
        document = build_response(outcomes, request, record, class_names)
        for result, explanation in zip(document["results"], explanations or (), strict=False):
            if explanation:
                result["explanation"] = explanation
        return encode(document)

    if _may_be_large(outcomes, request):
        return await asyncio.to_thread(build)
    return build()


def _may_be_large(outcomes: Sequence[ImageOutcome], request: PredictRequest) -> bool:
    """Whether the response has more than `MAX_LABELS_IN_EVENT_LOOP`."""
    only_labels = request.coverage_index is None and not request.embedding
    if only_labels and len(outcomes) * request.top_k <= MAX_LABELS_IN_EVENT_LOOP:
        return False  # without checking each image
    rows = [outcome.result.row for outcome in outcomes if isinstance(outcome.result, ImageResult)]
    labels = sum(min(request.top_k, len(row.indices)) for row in rows)
    if request.coverage_index is not None:
        labels += sum(row.set_sizes[request.coverage_index] for row in rows)
    if request.embedding:
        labels += sum(len(row.embedding) for row in rows) // NUMBERS_PER_LABEL
    return labels > MAX_LABELS_IN_EVENT_LOOP


def build_response(
    outcomes: Sequence[ImageOutcome],
    request: PredictRequest,
    record: RequestRecord,
    class_names: Sequence[str],
) -> dict[str, Any]:
    """The response of the image API, as `PredictResponse` in `service.http.schemas` declares it."""
    results = [
        describe_image(
            outcome.result.row,
            class_names,
            request.top_k,
            request.coverage_index,
            embedding=request.embedding,
        )
        if isinstance(outcome.result, ImageResult)
        else {"error": describe(outcome.result)}
        for outcome in outcomes
    ]
    return {
        "model": record.model,
        "version": record.version,
        "results": add_names(request.names, results),
        "timings": describe_timings(record),
    }


def add_names(names: Sequence[str], results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the name of each image in front of its result, if the images have names."""
    if not names:
        return results
    return [{"name": name, **result} for name, result in zip(names, results, strict=True)]


def encode_embedding(embedding: NDArray[np.float32]) -> orjson.Fragment:
    """An embedding as JSON, with the digits that float32 has."""
    return orjson.Fragment(orjson.dumps(embedding, option=orjson.OPT_SERIALIZE_NUMPY))


def describe_timings(record: RequestRecord) -> dict[str, float]:
    """The time of each stage in milliseconds, and the total until now."""
    # To whole microseconds, because round(number, 3) takes three times as long.
    timings = {
        f"{stage}_ms": round(seconds * 1e6) / 1e3 for stage, seconds in record.seconds.items()
    }
    timings["total_ms"] = round((time.monotonic() - record.started) * 1e6) / 1e3
    return timings


def describe_image(
    classification: Classification,
    class_names: Sequence[str],
    top_k: int,
    coverage_index: int | None = None,
    *,
    embedding: bool = False,
) -> dict[str, Any]:
    """The result of one image.

    Args:
        classification: The classes of the image, most probable first.
        class_names: The label of each class.
        top_k: Number of predictions.
        coverage_index: Index of the prediction set to add as `labels`.
        embedding: Whether to add the embedding.
    """
    indices = classification.indices[:top_k].tolist()
    best = zip(indices, classification.scores[:top_k].tolist(), strict=True)
    result: dict[str, Any] = {
        "predictions": [
            {"label": class_names[index], "index": index, "score": score} for index, score in best
        ]
    }
    if coverage_index is not None:
        size = classification.set_sizes[coverage_index]
        labels = classification.indices[:size].tolist()
        result["labels"] = [class_names[index] for index in labels]
    if classification.abstention_reason is not None:
        result["abstained"] = bool(classification.abstention_reason)
        if classification.abstention_reason:
            result["reason"] = str(classification.abstention_reason)
    if embedding and classification.embedding is not None:
        result["embedding"] = encode_embedding(classification.embedding)
    return result
