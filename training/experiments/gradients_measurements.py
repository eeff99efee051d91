"""Measurements of the experiment `gradients`."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.errors import InterruptedRunError
from training.experiments.laboratory import Laboratory
from training.experiments.loss_surface import LOSS_CEILING, grid_coordinates, measure_surface
from training.experiments.sample_images import sample_training_images
from training.experiments.trained_run import TrainedRun
from training.experiments.training_steps import open_batches, take_steps
from training.learning.learner import Learner
from training.learning.optimization import learning_rate_factor

SURFACE_IMAGES: Final = 256
NORM_WINDOW: Final = 10
"""Norms are averaged over this many first steps and over as many last steps."""

LayerNorms = NDArray[np.float64]
"""Gradient norms of the 3x3 convolutions of one network, `[seeds, steps, layers]`."""


def measure_norms(
    laboratory: Laboratory, runs: Sequence[TrainedRun], name: str, steps: int
) -> LayerNorms:
    """Gradient norms in the first training steps of a network, on the batches of these runs."""
    return np.array([measure_seed_norms(laboratory, run, name, steps) for run in runs])


def measure_seed_norms(
    laboratory: Laboratory, run: TrainedRun, name: str, steps: int
) -> list[list[float]]:
    """Norms `[steps][layers]` for the seed of `run`. Layers are in order from the input."""
    run_id = laboratory.directory(name, run.seed).run_id
    key = {"run": run_id, "data": run.data_digest, "steps": steps}
    norms: list[list[float]] = laboratory.measure_once(
        f"gradients-{name}", key, lambda: _measure_norms(laboratory, run, name, steps)
    )
    return norms


def _measure_norms(
    laboratory: Laboratory, run: TrainedRun, name: str, steps: int
) -> list[list[float]]:
    loader, determinism = open_batches(laboratory, run)
    recipe, total = run.config.recipe, loader.total_steps
    network = laboratory.untrained(name, run.seed)
    learner = Learner(network, recipe, laboratory.process, determinism)
    taken = take_steps(
        laboratory,
        learner,
        loader,
        steps,
        f"first steps: {name}",
        lambda step: learning_rate_factor(recipe.schedule, step, total),
    )
    return [gradient_norms(learner.network) for _ in taken]


def gradient_norms(network: nn.Module) -> list[float]:
    """Gradient norm of each 3x3 convolution's weight, in order from the input."""
    gradients = [
        module.weight.grad
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (3, 3)
        and module.weight.grad is not None
    ]
    return torch.stack([gradient.norm() for gradient in gradients]).tolist()


def window_means(norms: LayerNorms) -> dict[str, NDArray[np.float64]]:
    """Norms `[seeds, layers]` at the first step, and means over the first and last ten steps."""
    steps = norms.shape[1]
    first, last = min(NORM_WINDOW, steps), max(0, steps - NORM_WINDOW)
    return {
        "step 1": norms[:, 0],
        f"steps 1-{first}": norms[:, :first].mean(axis=1),
        f"steps {last + 1}-{steps}": norms[:, last:].mean(axis=1),
    }


def measure_run_surface(laboratory: Laboratory, run: TrainedRun, points: int) -> dict[str, Any]:
    """Measure `losses` around the trained weights of a run, and count the `images` used."""
    key = run.measurement_key() | {"images": SURFACE_IMAGES, "points": points}
    key |= {"directions": run.seed, "ceiling": LOSS_CEILING}
    surface: dict[str, Any] = laboratory.measure_once(
        f"surface-{run.architecture}", key, lambda: _measure_surface(laboratory, run, points)
    )
    return surface


def _measure_surface(laboratory: Laboratory, run: TrainedRun, points: int) -> dict[str, Any]:
    images, labels = sample_training_images(laboratory, run, SURFACE_IMAGES)
    network = run.trained.network.to(images.device)
    show = laboratory.display.count(f"loss surface: {run.architecture}")

    def progress(done: int, total: int) -> None:
        show(done, total)
        if laboratory.interrupted():
            raise InterruptedRunError(
                f"stopped at point {done} of {total} (loss surface of {run.architecture})"
            )

    coordinates = grid_coordinates(points)
    losses = measure_surface(network, images, labels, coordinates, run.seed, progress)
    return {"images": len(images), "losses": losses}
