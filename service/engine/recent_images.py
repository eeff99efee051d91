"""Scores and embedding distances of a version's newest images, to compare with training."""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Final

import numpy as np

from model_store.provenance import TOP_SCORE_PERCENTILES
from service.engine.classification import Classification
from service.errors import InvalidModelOutputError

WINDOW: Final = 1000


class RecentImages:
    """The top scores and embedding distances of the newest `WINDOW` images. Thread-safe.

    Attributes:
        abstentions: Images that the model abstained from, since it was loaded.
    """

    def __init__(self) -> None:
        self.abstentions = 0
        self._scores: deque[float] = deque(maxlen=WINDOW)
        self._distances: deque[float] = deque(maxlen=WINDOW)
        self._lock = threading.Lock()

    def observe(self, rows: Iterable[Classification | InvalidModelOutputError]) -> None:
        """Add the images of a batch."""
        found = [row for row in rows if isinstance(row, Classification)]
        scores = [float(row.scores[0]) for row in found]
        distances = [each for row in found if (each := row.distance) is not None and isfinite(each)]
        abstentions = sum(bool(row.abstention_reason) for row in found)
        with self._lock:
            self._scores.extend(scores)
            self._distances.extend(distances)
            self.abstentions += abstentions

    def __len__(self) -> int:
        return len(self._scores)

    def score_percentiles(self) -> Mapping[int, float]:
        """Top score by percentile; empty without images."""
        with self._lock:
            scores = list(self._scores)
        if not scores:
            return {}
        values = np.percentile(scores, TOP_SCORE_PERCENTILES).tolist()
        return dict(zip(TOP_SCORE_PERCENTILES, values, strict=True))

    def mean_score(self) -> float | None:
        return self._mean(self._scores)

    def mean_distance(self) -> float | None:
        """Mean of `Classification.distance`; None without images, or if the version has none."""
        return self._mean(self._distances)

    def _mean(self, values: deque[float]) -> float | None:
        with self._lock:
            return sum(values) / len(values) if values else None
