"""Numbers of several seeds, and how they are said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedValues:
    """One figure of several seeds, in their order."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """The mean."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; None of a single value."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else None

    def __sub__(self, other: "SeedValues") -> "SeedValues":
        """The differences, seed by seed."""
        return SeedValues([own - its for own, its in zip(self.values, other.values, strict=True)])

    def agree(self, margin: float = 0.0) -> bool | None:
        """Whether every seed lies above the margin (True) or below its negative (False); None within it, or where they disagree."""
        if all(value > margin for value in self.values):
            return True
        return False if all(value <= -margin for value in self.values) else None

    @property
    def points(self) -> str:
        """The size of a difference in points of per cent, without its sign: `12.30 ± 0.80 points`."""
        return f"{100 * abs(self.mean):.2f}{self._spread} points"

    @property
    def signed(self) -> str:
        """A difference in points of per cent, with its sign: `+12.30 ± 0.80`."""
        return f"{100 * self.mean:+.2f}{self._spread}"

    @property
    def _spread(self) -> str:
        return "" if self.deviation is None else f" ± {100 * self.deviation:.2f}"


def seeds_of(count: int) -> str:
    """How many seeds a sentence rests on: one of them agrees with itself."""
    return "one seed" if count == 1 else f"{count} seeds"


def listed(values: Iterable[object], separator: str = ", ") -> str:
    """Values in one text."""
    return separator.join(str(value) for value in values)
