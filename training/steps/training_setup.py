"""Builds what the training loop needs: learner, batches and determinism."""

import torch

from model_store.manifest import Colour, Preprocessing
from training.learning.batches import BatchLoader
from training.learning.determinism import (
    DeterminismInfo,
    choose_compile,
    choose_precision,
    determinism_info,
    keep_freed_memory,
)
from training.learning.distributed import DistributedProcess
from training.learning.learner import Learner
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.data import RunData
from training.run.directory import Run
from training.run.weights import INITIAL_WEIGHTS, read_weights


def surrounding_color(spec: Preprocessing) -> Colour:
    """RGB colour outside an image, as the preprocessing paints it."""
    return spec.letterbox.padding if spec.letterbox else spec.background


def prepare_training(
    run: Run, data: RunData, process: DistributedProcess, workers: int
) -> tuple[Learner, BatchLoader, DeterminismInfo]:
    """Return learner and batches in their state before the first step.

    Args:
        run: The run.
        data: Its data.
        process: This process of a distributed training.
        workers: Processes that decode training images.

    Raises:
        RunError: This machine cannot compute in the precision that the run asks for.
    """
    keep_freed_memory()
    config, recipe = run.config, run.config.recipe
    classes = len(data.images.class_names)
    precision = choose_precision(config.precision, process.device)
    compiled = choose_compile(config.compile, process.device)
    determinism = determinism_info(process.device, precision, compiled=compiled)
    torch.manual_seed(config.seed)
    network = build_network(
        config.architecture, classes, zero_init_residual=recipe.zero_init_residual
    )
    if run.has(INITIAL_WEIGHTS):
        initial = read_weights(run.path / INITIAL_WEIGHTS)
        network.load_state_dict(initial.network.state_dict())
        normalize = initial.normalize
    else:
        normalize = Normalization.fit(recipe.normalization, data.normalization_sample())
    normalize = normalize.to(process.device)
    if recipe.augmentation.fill == "background":
        fill = normalize.color(surrounding_color(config.preprocessing))
    else:
        fill = torch.zeros(3, 1, 1, device=process.device)
    loader = BatchLoader(
        source=data.training_source(process.device, workers),
        labels=data.labels(data.training_indices),
        classes=classes,
        recipe=recipe,
        normalize=normalize,
        image_size=(config.preprocessing.crop_height, config.preprocessing.crop_width),
        fill=fill,
        seed=config.seed,
        process=process,
    )
    return Learner(network, recipe, process, determinism), loader, determinism
