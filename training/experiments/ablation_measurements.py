"""What was measured of a network under lesions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.experiments.path_gradients import share_of_gradient
from training.statistics import SeedValues

GROUPS: Final = 8
"""Orders are drawn as so many groups, by tau."""


@dataclass(frozen=True)
class AblationResults:
    """What was measured of one network, over its seeds. `gradients` are norms `[seed, length, draw]`, empty of plain networks."""

    architecture: str
    blocks: Sequence[str]
    movable: Sequence[int]
    alone: NDArray[np.float64]
    """Errors `[seed, 1 + blocks]`: of the whole network, and without each block."""
    many: NDArray[np.float64]
    """Errors `[seed, number deleted - 1, draw]`."""
    swaps: Sequence[dict[str, Any]]
    """`seed`, `swaps`, `tau` and `error` of each order."""
    gradients: NDArray[np.float64]

    @property
    def rises(self) -> NDArray[np.float64]:
        """Errors without each block above the whole network's, `[seed, block]`."""
        return self.alone[:, 1:] - self.alone[:, :1]

    @property
    def changing(self) -> list[int]:
        """Positions of the blocks that change the shape."""
        return [position for position in range(len(self.blocks)) if position not in self.movable]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Shares of the gradient, `[seed, length]`."""
        return np.array([share_of_gradient(norms) for norms in self.gradients.tolist()])

    @property
    def growth(self) -> NDArray[np.float64]:
        """Mean error by number of blocks deleted, from none."""
        return np.array([self.alone[:, 0].mean(), *self.many.mean(axis=(0, 2))])

    @property
    def growth_deviations(self) -> list[float | None]:
        """Of the same errors, over draws and seeds."""
        return [
            self.whole_deviation,
            *(
                SeedValues(errors.ravel().tolist()).deviation
                for errors in np.moveaxis(self.many, 1, 0)
            ),
        ]

    @property
    def whole_deviation(self) -> float:
        """Of the whole network's error, which nothing but the seed draws: 0 of one."""
        return SeedValues(self.alone[:, 0].tolist()).deviation or 0.0

    def by_tau(self) -> list[tuple[float, float, float | None]]:
        """Mean tau, mean error and its deviation (None of one order) where taus are near; the trained order, tau 1, is the last."""
        moved = np.array(
            [(round(order["tau"], 6), order["error"]) for order in self.swaps if order["tau"] < 1]
        ).reshape(-1, 2)
        distinct = np.unique(moved[:, 0])
        points: list[tuple[float, float, float | None]] = []
        for taus in np.array_split(distinct, min(GROUPS, len(distinct))) if len(distinct) else ():
            group = moved[np.isin(moved[:, 0], taus)]
            points.append(
                (
                    float(group[:, 0].mean()),
                    float(group[:, 1].mean()),
                    SeedValues(group[:, 1].tolist()).deviation,
                )
            )
        return [*points, (1.0, float(self.alone[:, 0].mean()), self.whole_deviation)]


def percents(value: Any) -> str:
    """A share for a sentence."""
    return f"{100 * float(value):.1f} %"
