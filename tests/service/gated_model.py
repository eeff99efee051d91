"""A model that waits at a gate, so that a test decides when a batch runs."""

import asyncio
import threading
from collections.abc import Callable

import numpy as np
from server_process import PATIENCE_SECONDS

Run = Callable[[np.ndarray], np.ndarray]


class GatedModel:
    """Each run reports that it has begun and waits until the gate is open."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = threading.Semaphore(0)
        self.gate = threading.Event()
        self.batches: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images.copy())
        self._began.release()
        assert self.gate.wait(PATIENCE_SECONDS), "no test opened the gate"
        return self._run(images)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    async def begun(self) -> None:
        """Wait until one more batch has begun."""
        assert await asyncio.to_thread(self._began.acquire, timeout=PATIENCE_SECONDS), (
            "no batch began"
        )


def numbered(number: int) -> np.ndarray:
    """An image that encodes the number in its pixel, up to 2^24."""
    return np.array([[[number & 255, number >> 8 & 255, number >> 16]]], dtype=np.uint8)


def read_numbers(images: np.ndarray) -> np.ndarray:
    """A model that decodes numbered images: float32 `[batch, 1]`."""
    return images.reshape(len(images), 3).astype(np.float32) @ np.array(
        [[1], [256], [65536]], dtype=np.float32
    )
