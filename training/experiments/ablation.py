"""Lesions: blocks deleted and swapped at test time, and the paths that carry the gradient (Veit et al. 2016)."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from training.experiments.ablation_figures import parts
from training.experiments.ablation_measurements import AblationResults
from training.experiments.ablation_verdicts import verdicts
from training.experiments.block_ablation import BlockAblation
from training.experiments.experiment_report import Report
from training.experiments.laboratory import Laboratory, TrainedRun
from training.experiments.network_parts import NetworkParts
from training.experiments.path_gradients import gradient_norms
from training.experiments.run_description import command, describe
from training.experiments.sample_images import TestImages

PATH_IMAGES: Final = 64
SOURCES: Final = ("Veit et al. 2016, sections 4.1 to 4.3, figures 3, 5 and 6",)
CLAIM: Final = (
    "A residual network behaves like many shorter networks at once: every block is a fork, so n blocks make 2^n paths. Taking out "
    "a block or swapping two closes or changes some of the paths and leaves the others; a plain network has one path, and dies. "
    "And it is the short paths that carry the gradient."
)


class _Measuring:
    """One run's measurements; what is kept already does not need the network, which is opened by the first that is not."""

    def __init__(
        self, laboratory: Laboratory, run: TrainedRun, pictures: TestImages, draws: int
    ) -> None:
        self._laboratory, self._run, self._pictures = laboratory, run, pictures
        self._draws = {"draws": draws, "seed": run.seed}

    @cached_property
    def _patient(self) -> BlockAblation:
        return BlockAblation(self._laboratory, self._run, self._pictures)

    def _kept(
        self, name: str, measure: Callable[[], Any], pictures: TestImages, **further: int
    ) -> Any:
        return self._laboratory.measured(name, pictures.identity(self._run) | further, measure)

    def alone(self) -> Any:
        # the lambda: a patient is opened only where it is needed
        return self._kept("lesions-alone", lambda: self._patient.delete_each(), self._pictures)  # noqa: PLW0108

    def many(self) -> Any:
        return self._kept(
            "lesions-many",
            lambda: self._patient.delete_many(**self._draws),
            self._pictures,
            **self._draws,
        )

    def swaps(self) -> Any:
        return self._kept(
            "lesions-swaps",
            lambda: self._patient.swap(**self._draws),
            self._pictures,
            **self._draws,
        )

    def gradients(self) -> Any:
        few = TestImages(self._laboratory, self._run, PATH_IMAGES)
        return self._kept(
            "lesions-paths",
            lambda: gradient_norms(self._laboratory, self._run, few, **self._draws),
            few,
            **self._draws,
        )


def perform(
    laboratory: Laboratory, depth: int, seeds: Sequence[int], images: int, draws: int
) -> Report:
    """Train what is not trained, measure what is not measured, and say what came out. Raises TrainingError."""
    names = [f"plain{depth}", f"resnet{depth}"]
    laboratory.require(names)
    trained = {(name, seed): laboratory.train(name, seed) for seed in seeds for name in names}
    runs = {name: [trained[name, seed] for seed in seeds] for name in names}
    pictures, few = (
        TestImages(laboratory, runs[names[0]][0], wanted) for wanted in (images, PATH_IMAGES)
    )
    plain, residual = (examine(laboratory, runs[name], pictures, draws) for name in names)
    chance = 1 - 1 / len(laboratory.images.class_names)
    return Report(
        name="lesions",
        title="Lesions: is a residual network many networks?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(plain, residual, chance),
        parts=parts(
            plain,
            residual,
            chance,
            seeds=seeds,
            images=len(pictures),
            draws=draws,
            path_images=len(few),
        ),
        setting=describe(laboratory, [run for name in names for run in runs[name]]),
        commands=[
            command(
                laboratory,
                "lesions",
                "--depth",
                str(depth),
                "--images",
                str(images),
                "--draws",
                str(draws),
                seeds=seeds,
            )
        ],
    )


def examine(
    laboratory: Laboratory, runs: Sequence[TrainedRun], pictures: TestImages, draws: int
) -> AblationResults:
    """All lesions of one network; paths of a residual one only, since a plain one has a single path."""
    name, anatomy = runs[0].architecture, NetworkParts.of(runs[0].trained.network)
    alone, many, swaps, gradients = [], [], [], []
    for run in runs:  # one network at a time is open
        measuring = _Measuring(laboratory, run, pictures, draws)
        alone.append(measuring.alone())
        many.append(measuring.many())
        swaps += [{"seed": run.seed, **order} for order in measuring.swaps()]
        if not name.startswith("plain"):
            gradients.append(measuring.gradients())
    return AblationResults(
        architecture=name,
        blocks=anatomy.names,
        movable=anatomy.movable,
        alone=np.array(alone),
        many=np.array(many),
        swaps=swaps,
        gradients=np.array(gradients),
    )
