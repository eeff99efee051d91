"""Measurements of the experiment `ablation`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.experiments.block_ablation import BlockAblation
from training.experiments.laboratory import Laboratory
from training.experiments.network_parts import NetworkParts
from training.experiments.path_gradients import measure_path_gradients, share_of_gradient
from training.experiments.sample_images import SampleTestImages
from training.experiments.trained_run import TrainedRun
from training.statistics import SeedValues

PATH_IMAGES: Final = 64
TAU_GROUPS: Final = 8
"""Number of groups of orders with similar tau; each group is one point of the figure."""


@dataclass(frozen=True)
class AblationResults:
    """Measurements of one network over its seeds. Errors are test errors."""

    architecture: str
    blocks: Sequence[str]
    shape_keeping: Sequence[int]
    """Positions of the blocks that keep the shape."""
    single: NDArray[np.float64]
    """Errors `[seed, 1 + blocks]`: the whole network first, then without each block."""
    many: NDArray[np.float64]
    """Errors `[seed, number deleted - 1, draw]`."""
    swaps: Sequence[dict[str, Any]]
    """`seed`, `swaps`, `tau` and `error` of each order of blocks."""
    gradients: NDArray[np.float64]
    """Gradient norms `[seed, path length, draw]`; empty for plain networks."""

    @property
    def error_rises(self) -> NDArray[np.float64]:
        """Error without each block minus that of the whole network, `[seed, block]`."""
        return self.single[:, 1:] - self.single[:, :1]

    @property
    def shape_changing(self) -> list[int]:
        return [p for p in range(len(self.blocks)) if p not in self.shape_keeping]

    @property
    def gradient_shares(self) -> NDArray[np.float64]:
        """Share of the gradient by path length, `[seed, length]`."""
        return np.array([share_of_gradient(norms) for norms in self.gradients.tolist()])

    @property
    def errors_by_deleted(self) -> NDArray[np.float64]:
        """Mean error by number of deleted blocks, from 0."""
        return np.array([self.single[:, 0].mean(), *self.many.mean(axis=(0, 2))])

    @property
    def deviations_by_deleted(self) -> list[float | None]:
        """Standard deviation of these errors over draws and seeds; None if there is one value."""
        by_number = np.moveaxis(self.many, 1, 0)
        deviations = [SeedValues(errors.ravel().tolist()).deviation for errors in by_number]
        return [self.whole_deviation, *deviations]

    @property
    def whole_deviation(self) -> float:
        """Standard deviation of the whole network's error over the seeds; 0 for one seed."""
        return SeedValues(self.single[:, 0].tolist()).deviation or 0.0

    def errors_by_tau(self) -> list[tuple[float, float, float | None]]:
        """Mean tau, mean error and standard deviation of each group of orders, in ascending tau.

        Random orders that equal the trained order are left out. The last item is the trained order.
        """
        moved = np.array(
            [(round(order["tau"], 6), order["error"]) for order in self.swaps if order["tau"] < 1]
        ).reshape(-1, 2)
        distinct = np.unique(moved[:, 0])
        points: list[tuple[float, float, float | None]] = []
        groups = np.array_split(distinct, min(TAU_GROUPS, len(distinct))) if len(distinct) else ()
        for taus in groups:
            group = moved[np.isin(moved[:, 0], taus)]
            errors = SeedValues(group[:, 1].tolist())
            points.append((float(group[:, 0].mean()), errors.mean, errors.deviation))
        return [*points, (1.0, float(self.single[:, 0].mean()), self.whole_deviation)]


def measure_network(
    laboratory: Laboratory, runs: Sequence[TrainedRun], images: SampleTestImages, draws: int
) -> AblationResults:
    """Measure the runs of one network. Path gradients are measured for residual networks only."""
    name, parts = runs[0].architecture, NetworkParts.of(runs[0].trained.network)
    single, many, swaps, gradients = [], [], [], []
    for run in runs:
        measurements = _RunMeasurements(laboratory, run, images, draws)
        single.append(measurements.delete_each())
        many.append(measurements.delete_many())
        swaps += [{"seed": run.seed, **order} for order in measurements.swap()]
        if not name.startswith("plain"):
            gradients.append(measurements.path_gradients())
    return AblationResults(
        architecture=name,
        blocks=parts.names,
        shape_keeping=parts.shape_keeping,
        single=np.array(single),
        many=np.array(many),
        swaps=swaps,
        gradients=np.array(gradients),
    )


class _RunMeasurements:
    """Measurements of one run. The network is loaded only if a measurement is not on disk yet.

    Measurement files keep the prefix `lesions-`, so that files of earlier releases stay valid.
    """

    def __init__(
        self, laboratory: Laboratory, run: TrainedRun, images: SampleTestImages, draws: int
    ) -> None:
        self._laboratory, self._run, self._images = laboratory, run, images
        self._draws = {"draws": draws, "seed": run.seed}

    @cached_property
    def _ablation(self) -> BlockAblation:
        return BlockAblation(self._laboratory, self._run, self._images)

    def delete_each(self) -> Any:
        # A lambda, because `self._ablation.delete_each` would load the network at once.
        measure = lambda: self._ablation.delete_each()  # noqa: E731, PLW0108
        return self._measure_once("lesions-alone", self._images, measure)

    def delete_many(self) -> Any:
        return self._measure_once(
            "lesions-many",
            self._images,
            lambda: self._ablation.delete_many(**self._draws),
            **self._draws,
        )

    def swap(self) -> Any:
        return self._measure_once(
            "lesions-swaps", self._images, lambda: self._ablation.swap(**self._draws), **self._draws
        )

    def path_gradients(self) -> Any:
        images = SampleTestImages(self._laboratory, self._run, PATH_IMAGES)
        return self._measure_once(
            "lesions-paths",
            images,
            lambda: measure_path_gradients(self._laboratory, self._run, images, **self._draws),
            **self._draws,
        )

    def _measure_once(
        self, name: str, images: SampleTestImages, measure: Callable[[], Any], **further: int
    ) -> Any:
        key = images.measurement_key(self._run) | further
        return self._laboratory.measure_once(name, key, measure)
