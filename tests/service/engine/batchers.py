"""Batchers with functions as models."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gated_model import GatedModel, numbered
from server_process import PATIENCE_SECONDS

from service.engine.batcher import Batcher
from service.engine.queued_image import ImageResult

LARGEST = 4


@contextmanager
def batching(run: Any, max_batch_size: int = LARGEST, **options: Any) -> Iterator[Batcher]:
    """A batcher that is closed at the end; the gate of its model is opened before."""
    batcher = Batcher(run, max_batch_size, **options)
    try:
        yield batcher
    finally:
        if isinstance(run, GatedModel):
            run.gate.set()
        batcher.close()


def submit(batcher: Batcher, *numbers: int) -> list[asyncio.Future[ImageResult]]:
    return [
        batcher.submit(numbered(number), time.monotonic() + PATIENCE_SECONDS) for number in numbers
    ]


async def answered(futures: list[asyncio.Future[ImageResult]]) -> list[int]:
    return [int(answer.row[0]) for answer in await asyncio.gather(*futures)]
