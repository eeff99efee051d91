"""Measurements of the experiment `responses`: output strength of each layer."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.errors import RecipeError
from training.experiments.laboratory import Laboratory
from training.experiments.sample_images import SampleTestImages
from training.experiments.trained_run import TrainedRun
from training.learning.architectures import parse_architecture
from training.statistics import SeedValues


@dataclass(frozen=True)
class LayerResponses:
    """Responses of one network: the standard deviation of each layer's output.

    `deviations` is float64 `[seeds, layers]`.
    """

    architecture: str
    layers: Sequence[str]
    deviations: NDArray[np.float64]

    @property
    def layer_mean(self) -> SeedValues:
        """Mean over the layers, per seed."""
        return SeedValues(self.deviations.mean(axis=1).tolist())


def response_norms(network: nn.Module, architecture: str) -> dict[str, nn.BatchNorm2d]:
    """Batch norms that follow a convolution, by the convolution's name. Shortcuts are left out.

    Raises:
        RecipeError: The network uses pre-activation, where batch norms precede convolutions.
    """
    if parse_architecture(architecture).family == "preresnet":
        raise RecipeError(
            f"{architecture} has no batch norm after its convolutions. Responses can be measured "
            "for plain and residual networks."
        )
    norms = {}
    for name, parent in network.named_modules():
        if name.endswith("downsample"):
            continue
        for (inner, module), (_, following) in itertools.pairwise(parent.named_children()):
            if isinstance(module, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                norms[f"{name}.{inner}".removeprefix(".")] = following
    return norms


@torch.no_grad()
def output_deviations(
    network: nn.Module, modules: Sequence[nn.Module], batches: Iterable[Tensor]
) -> list[float]:
    """Standard deviation of each module's output over all images, channels and positions.

    Sums are accumulated in float64.
    """
    totals = torch.zeros((len(modules), 3), dtype=torch.float64)

    def add(position: int, output: Tensor) -> None:
        values = output.double()
        sums = [values.sum(), values.square().sum(), values.new_tensor(values.numel())]
        totals[position] += torch.stack(sums).cpu()

    hooks = [
        module.register_forward_hook(
            lambda _module, _inputs, output, position=position: add(position, output)
        )
        for position, module in enumerate(modules)
    ]
    try:
        for batch in batches:
            network.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    sums, squares, counts = totals.unbind(1)
    variances = squares / counts - (sums / counts) ** 2
    return [float(value) for value in variances.clamp(min=0).sqrt()]


def measure_network(
    laboratory: Laboratory, runs: Sequence[TrainedRun], images: SampleTestImages
) -> LayerResponses:
    """Responses of one network, for each of its runs."""
    name = runs[0].architecture
    layers = list(response_norms(runs[0].trained.network, name))

    def measure(run: TrainedRun) -> list[float]:
        device = laboratory.process.device
        network = run.trained.network.to(device)
        network = network.to(memory_format=torch.channels_last)
        batches = laboratory.iterate(f"responses: {name}", images.batches(run))
        return output_deviations(network, list(response_norms(network, name).values()), batches)

    deviations = [
        laboratory.measure_once("responses", images.measurement_key(run), partial(measure, run))
        for run in runs
    ]
    return LayerResponses(name, layers, np.array(deviations, np.float64))
