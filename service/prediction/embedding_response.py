"""The responses with embeddings: as JSON, and as bytes."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import orjson

from service.engine.queued_image import ImageResult
from service.errors import describe
from service.prediction.request import ImageOutcome, PredictRequest, RequestRecord
from service.prediction.response import add_names, describe_timings, encode_embedding

MAX_NUMBERS_IN_EVENT_LOOP: Final = 20_000
"""The event loop encodes up to so many numbers, which takes 1 to 2 ms."""


async def encode_embeddings(
    outcomes: Sequence[ImageOutcome], request: PredictRequest, record: RequestRecord
) -> bytes:
    """The response as JSON, as `EmbedResponse` in `service.http.schemas` declares it."""
    encode = partial(_encode, outcomes, request, record)
    numbers = sum(
        len(outcome.result.row.embedding)
        for outcome in outcomes
        if isinstance(outcome.result, ImageResult)
    )
    return await asyncio.to_thread(encode) if numbers > MAX_NUMBERS_IN_EVENT_LOOP else encode()


def pack_embeddings(outcomes: Sequence[ImageOutcome]) -> bytes:
    """The embeddings as little-endian float32, one image after the other.

    Raises:
        ServiceError, ImageError: The error of the first image that failed: bytes cannot state it.
    """
    embeddings = []
    for outcome in outcomes:
        if not isinstance(outcome.result, ImageResult):
            raise outcome.result
        embeddings.append(outcome.result.row.embedding)
    return np.array(embeddings, "<f4").tobytes()


def _encode(
    outcomes: Sequence[ImageOutcome], request: PredictRequest, record: RequestRecord
) -> bytes:
    results = add_names(request.names, [_describe_image(outcome) for outcome in outcomes])
    document = {
        "model": record.model,
        "version": record.version,
        "results": results,
        "timings": describe_timings(record),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _describe_image(outcome: ImageOutcome) -> dict[str, Any]:
    if isinstance(outcome.result, ImageResult):
        return {"embedding": encode_embedding(outcome.result.row.embedding)}
    return {"error": describe(outcome.result)}
