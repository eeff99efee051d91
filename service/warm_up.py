"""The first runs of a session, before it is ready: what a provider prepares for a batch's size it prepares now."""

import time
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from model_store.errors import ModelRunError
from model_store.manifest import Input
from model_store.preprocessing import Pixels
from model_store.session import Logits, RunControl

BUDGET_SECONDS: Final = 0.3
Run = Callable[[Pixels, RunControl], Logits]


def warm_up(run: Run, shape: Input, classes: int, max_batch_size: int, sizes: Sequence[int] = ()) -> dict[int, float]:
    """Run black images in every one of `sizes`; seconds by batch size. Raises ModelRunError where the scores have another shape.

    The largest comes first: what a provider compiles for a range of sizes it need not compile again for those between.
    Without sizes the provider prepares nothing by size, so it is one image, and the largest batch that should fit the budget.
    """
    taken = {size: _time(run, shape, classes, size) for size in sorted(sizes, reverse=True) or (1,)}
    if not sizes:
        largest = min(max_batch_size, int(BUDGET_SECONDS / taken[1]))
        if largest > 1:
            taken[largest] = _time(run, shape, classes, largest)
    return taken


def _time(run: Run, shape: Input, classes: int, size: int) -> float:
    images = np.zeros((size, shape.height, shape.width, 3), np.uint8)
    began = time.perf_counter()
    scores = run(images, RunControl(gives_memory_back=True))  # what idles needs no memory for the largest batch
    seconds = time.perf_counter() - began
    if scores.shape != (size, classes):
        raise ModelRunError(f"the model gives scores of shape {scores.shape}, expected {(size, classes)}")
    return seconds
