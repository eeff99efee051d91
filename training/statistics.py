"""Values measured once per seed, and their texts in reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedValues:
    """One quantity, measured once per seed, in the order of the seeds."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (`ddof=1`); None for a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __sub__(self, other: "SeedValues") -> "SeedValues":
        """Differences, seed by seed."""
        return SeedValues([a - b for a, b in zip(self.values, other.values, strict=True)])

    @property
    def all_zero(self) -> bool:
        """Whether every value is 0, up to rounding. Networks that learn nothing are equal."""
        return bool(np.allclose(self.values, 0, atol=1e-9))

    def is_positive(self, margin: float = 0.0) -> bool | None:
        """True if every seed is above `margin`, False if every seed is at or below `-margin`.

        None if the seeds disagree or lie within the margin, or if every value is 0.
        """
        if self.all_zero:
            return None
        if all(value > margin for value in self.values):
            return True
        return False if all(value <= -margin for value in self.values) else None

    @property
    def absolute_points(self) -> str:
        """Absolute difference in percentage points: `12.30 ± 0.80 points`."""
        return f"{100 * abs(self.mean):.2f}{self._deviation_text} points"

    @property
    def signed_points(self) -> str:
        """Difference in percentage points with its sign: `+12.30 ± 0.80`."""
        return f"{100 * self.mean:+.2f}{self._deviation_text}"

    @property
    def _deviation_text(self) -> str:
        return "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"


def seed_count_text(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def join_values(values: Iterable[object], separator: str = ", ") -> str:
    return separator.join(str(value) for value in values)
