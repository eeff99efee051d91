"""Responses: how strongly each layer of plain and residual networks answers (He et al. 2015, section 4.2, figure 7)."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import RecipeError
from training.experiments.experiment_report import (
    Report,
    ReportColumn,
    ReportFigure,
    ReportSection,
    Table,
    Verdict,
    drawn,
)
from training.experiments.laboratory import TWINS, Laboratory, TrainedRun
from training.experiments.run_description import command, describe
from training.experiments.sample_images import TestImages, counted
from training.learning.networks import parse_architecture
from training.reports.figures import Line, draw_lines
from training.statistics import SeedValues, listed

SOURCES: Final = ("He et al. 2015, section 4.2 and figure 7",)
CLAIM: Final = (
    "Residual functions are generally closer to zero than functions that nothing is added to: layers of residual networks respond "
    "more weakly than those of their plain twins, and the deeper a residual network is, the less each layer changes the signal."
)
METHOD: Final = (
    "The response of a layer is the standard deviation of what its convolution gives after batch norm, before the ReLU and before "
    "the addition, over all channels and positions of {:,} test images, in evaluation mode. Convolutions on shortcuts count as no "
    "layer."
)


@dataclass(frozen=True)
class Responses:
    """Standard deviations of one network, float64 `[seeds, layers]`."""

    architecture: str
    layers: Sequence[str]
    deviations: NDArray[np.float64]

    @property
    def mean(self) -> SeedValues:
        """The mean over the layers, a value a seed."""
        return SeedValues(self.deviations.mean(axis=1).tolist())


def perform(
    laboratory: Laboratory, depths: Sequence[int], seeds: Sequence[int], images: int
) -> Report:
    """Train what is not trained, measure, and say what came out. Raises TrainingError."""
    names = [f"{kind}{depth}" for depth in depths for kind in TWINS]
    laboratory.require(names)
    runs = {(name, seed): laboratory.train(name, seed) for seed in seeds for name in names}
    pictures = TestImages(laboratory, runs[names[0], seeds[0]], images)
    responses = [
        measure_network(laboratory, [runs[name, seed] for seed in seeds], pictures)
        for name in names
    ]
    over = "" if len(seeds) == 1 else ", means over the seeds"
    return Report(
        name="responses",
        title="Responses: how much does each layer change?",
        claim=CLAIM,
        sources=SOURCES,
        verdicts=verdicts(responses),
        parts=[
            ReportSection(
                "Responses of the layers",
                [METHOD.format(len(pictures))],
                [
                    draw_responses(
                        "responses-in-order",
                        f"In the order of the layers, plain networks dashed{over}",
                        responses,
                    ),
                    draw_responses(
                        "responses-by-size",
                        f"The same from large to small{over}",
                        responses,
                        by_size=True,
                    ),
                ],
                [summary(responses)],
                [layer_table(responses, seeds)],
            )
        ],
        setting=describe(laboratory, list(runs.values())),
        commands=[
            command(
                laboratory,
                "responses",
                "--depths",
                listed(depths, ","),
                "--images",
                str(images),
                seeds=seeds,
            )
        ],
    )


def response_norms(network: nn.Module, architecture: str) -> dict[str, nn.BatchNorm2d]:
    """Norms that stand behind the convolutions, shortcuts' left out, by the convolution's name, in the order in which they run.

    Raises RecipeError for pre-activation, whose norms stand before the convolutions: nothing there is a layer's output.
    """
    if parse_architecture(architecture).family == "preresnet":
        raise RecipeError(
            f"{architecture} has no norms behind its convolutions; responses are of plain and residual networks"
        )
    norms = {}
    for name, parent in network.named_modules():
        if name.endswith("downsample"):
            continue
        for (inner, before), (_, norm) in itertools.pairwise(parent.named_children()):
            if isinstance(before, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                norms[f"{name}.{inner}".removeprefix(".")] = norm
    return norms


@torch.no_grad()
def deviations(
    network: nn.Module, norms: Sequence[nn.Module], batches: Iterable[Tensor]
) -> list[float]:
    """The standard deviation of what each norm gives over all images, channels and positions, by sums in float64."""
    totals = torch.zeros((len(norms), 3), dtype=torch.float64)

    def add(position: int, output: Tensor) -> None:
        wide = output.double()
        totals[position] += torch.stack(
            [wide.sum(), wide.square().sum(), wide.new_tensor(wide.numel())]
        ).cpu()

    hooks = [
        norm.register_forward_hook(
            lambda _module, _inputs, output, position=position: add(position, output)
        )
        for position, norm in enumerate(norms)
    ]
    try:
        for batch in batches:
            network.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    sums, squares, numbers = totals.unbind(1)
    variances = squares / numbers - (sums / numbers) ** 2
    return [float(value) for value in variances.clamp(min=0).sqrt()]


def measure_network(
    laboratory: Laboratory, runs: Sequence[TrainedRun], pictures: TestImages
) -> Responses:
    """The responses of one network's runs, a seed each; what was measured is read."""
    name = runs[0].architecture
    layers = list(response_norms(runs[0].trained.network, name))

    def measure(run: TrainedRun) -> list[float]:
        network = run.trained.network.to(
            laboratory.process.device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        batches = counted(laboratory, f"responses of {name}", pictures.batches(run))
        return deviations(network, list(response_norms(network, name).values()), batches)

    measured = [
        laboratory.measured("responses", pictures.identity(run), partial(measure, run))
        for run in runs
    ]
    return Responses(name, layers, np.array(measured, np.float64))


def draw_responses(
    name: str, caption: str, responses: Sequence[Responses], *, by_size: bool = False
) -> ReportFigure:
    """A line a network: its layers in order, or sorted."""
    lines = []
    for position, each in enumerate(responses):
        mean = each.deviations.mean(axis=0)
        heights = np.sort(mean)[::-1] if by_size else mean
        plain = each.architecture.startswith("plain")
        lines.append(
            Line(
                each.architecture,
                range(1, len(mean) + 1),
                heights.tolist(),
                position // len(TWINS),
                dashed=plain,
            )
        )
    x = "layers, the strongest first" if by_size else "layer"
    return ReportFigure(
        name, caption, drawn(draw_lines(name, lines, x=x, y="standard deviation", logarithmic=True))
    )


def verdicts(responses: Sequence[Responses]) -> list[Verdict]:
    """What the deviations say of twins, and of residual networks by depth. `responses` are plain and residual in turn."""
    said = []
    for plain, residual in zip(responses[::2], responses[1::2], strict=True):
        weaker = plain.deviations.mean(axis=0) > residual.deviations.mean(axis=0)
        agreed = (plain.mean - residual.mean).agree()
        said.append(
            Verdict(
                agreed
                if agreed == bool(2 * weaker.sum() > len(weaker))
                else None,  # a few large layers make no rule
                f"Residual layers respond {_comparison(residual, plain)} plain ones: {residual.architecture}'s mean response is "
                f"{residual.mean.mean:.3f}, {plain.architecture}'s {plain.mean.mean:.3f}; {weaker.sum()} of {len(weaker)} layers "
                "respond more weakly than their twins.",
            )
        )
    for short, long in itertools.pairwise(responses[1::2]):
        said.append(
            Verdict(
                (short.mean - long.mean).agree(),
                f"Layers of the deeper residual network respond {_comparison(long, short)} those of the shallower one: "
                f"{long.architecture}'s mean response is {long.mean.mean:.3f}, {short.architecture}'s {short.mean.mean:.3f}.",
            )
        )
    return said


def _comparison(one: Responses, other: Responses) -> str:
    return "more weakly than" if one.mean.mean < other.mean.mean else "no more weakly than"


def summary(responses: Sequence[Responses]) -> Table:
    """A row a network."""
    columns = (
        *(ReportColumn("network"), ReportColumn("layers", "whole"), ReportColumn("seeds", "whole")),
        *(
            ReportColumn("mean", "decimals"),
            ReportColumn("± mean", "decimals"),
            ReportColumn("median", "decimals"),
        ),
        *(ReportColumn("smallest", "decimals"), ReportColumn("largest", "decimals")),
    )
    rows = []
    for each in responses:
        layers = each.deviations.mean(axis=0)
        spread = [float(np.median(layers)), float(layers.min()), float(layers.max())]
        rows.append(
            (
                each.architecture,
                len(layers),
                len(each.deviations),
                each.mean.mean,
                each.mean.deviation,
                *spread,
            )
        )
    return Table("responses", "Responses over the layers; ± over the seeds", columns, rows)


def layer_table(responses: Sequence[Responses], seeds: Sequence[int]) -> Table:
    """Every layer of every network and seed: for a file."""
    columns = (
        ReportColumn("network"),
        ReportColumn("seed", "whole"),
        ReportColumn("layer"),
        ReportColumn("standard deviation", "decimals"),
    )
    rows = [
        (each.architecture, seed, layer, value)
        for each in responses
        for seed, values in zip(seeds, each.deviations.tolist(), strict=True)
        for layer, value in zip(each.layers, values, strict=True)
    ]
    return Table("layers", "every layer", columns, rows)
