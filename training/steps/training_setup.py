"""What training begins with: network, weights, normalisation, the loader of images, all as the run's config says."""

import torch

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
from training.run.directory import RunDirectory
from training.run.weights import INITIAL_WEIGHTS, read_weights


def prepare_training(
    run: RunDirectory, data: RunData, process: DistributedProcess
) -> tuple[Learner, BatchLoader, DeterminismInfo]:
    """A learner and its loader, as they are before the first step. Raises RunError for arithmetic that is not to be had here."""
    keep_freed_memory()
    config = run.config()
    recipe, classes, size = (
        config.recipe,
        len(data.images.class_names),
        config.preprocessing.crop_height,
    )
    precision = choose_precision(config.precision, process.device)
    determinism = determinism_info(
        process.device, precision, compiled=choose_compile(config.compile, process.device)
    )
    torch.manual_seed(config.seed)
    network = build_network(
        config.architecture, classes, zero_init_residual=recipe.zero_init_residual
    )
    if run.has(INITIAL_WEIGHTS):
        start = read_weights(run.path / INITIAL_WEIGHTS)
        network.load_state_dict(start.network.state_dict())
        normalize = start.normalize
    else:
        normalize = Normalization.fit(recipe.normalization, data.training_sample())
    normalize = normalize.to(process.device)
    background = recipe.augmentation.fill == "background"
    loader = BatchLoader(
        source=data.training_source(process.device),
        labels=torch.from_numpy(data.images.labels[data.learned]),
        classes=classes,
        recipe=recipe,
        normalize=normalize,
        image_size=size,
        fill=normalize.color(config.preprocessing.background)
        if background
        else torch.zeros(3, 1, 1, device=process.device),
        seed=config.seed,
        process=process,
    )
    return Learner(network, recipe, process, determinism), loader, determinism
