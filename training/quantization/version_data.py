"""Loads the labelled images that a published version was trained on, with the same split."""

import shlex
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from model_store.geometry import without_crop
from model_store.version import Version
from training.data.check import check, left_out
from training.data.decode_workers import decode_threads
from training.data.scan import scan
from training.data.sources import resolve_source, with_classes
from training.data.split import SPLIT_SEED, make_split
from training.errors import DataError, QuantizationError
from training.run.data import RunData, load_images
from training.run.known_images import known_digests, read_version_known_images


def find_sources(version: Version, names: Sequence[str]) -> tuple[str, ...]:
    """Return the sources `names`, or those of the version's training command if there are none.

    Raises:
        DataError: A source in `names` does not exist.
        QuantizationError: The training command has no sources, or they are not here.
    """
    if names:
        return tuple(resolve_source(name) for name in names)
    training = version.manifest.training
    words = shlex.split(training.command) if training else []
    trained_on = tuple(word for option, word in pairwise(words) if option == "--data")
    advice = "give labelled images with --data, as for `run`"
    if not trained_on:
        raise QuantizationError(f"{version} does not state its training data; {advice}")
    try:
        return tuple(resolve_source(name) for name in trained_on)
    except DataError as error:
        raise QuantizationError(
            f"the training data of {version} cannot be found: {error}. Or {advice}"
        ) from None


def open_version_data(
    version: Version,
    names: Sequence[str],
    data_dir: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RunData:
    """Load, check and split the sources as in training.

    The test split never contains images that the version was trained on.

    Raises:
        QuantizationError: If no source is available.
        DataError: If an image has a class that the version does not have, or a split is empty.
    """
    spec, workers = version.manifest.preprocessing, decode_threads(None)
    images = load_images(find_sources(version, names), data_dir)
    if unknown := [name for name in images.class_names if name not in version.manifest.class_names]:
        raise DataError(
            f"{images.name} has classes that {version} does not have: {', '.join(unknown[:5])}; "
            "rename or remove them"
        )
    images = with_classes(images, version.manifest.class_names)
    scanned = scan(images, without_crop(spec), workers, progress)
    recorded = read_version_known_images(version)
    known = set() if recorded is None else known_digests(scanned, recorded)
    findings = check(images, scanned.facts, known)
    excluded = left_out(images, scanned.facts, known)
    split = make_split(images, scanned.facts, excluded, SPLIT_SEED, known)
    if missing := [part for part, indices in vars(split).items() if not len(indices)]:
        raise DataError(
            f"{images.name} has no image left for {' and '.join(missing)}; give more images"
        )
    return RunData(images, scanned, findings, split, excluded, spec, workers)


def is_training_data(version: Version, data: RunData) -> bool:
    """Whether these are exactly the images and labels that the version was trained on."""
    training = version.manifest.training
    return training is not None and training.data.digest == data.digest
