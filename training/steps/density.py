"""Density of an exported model: fitted on training images, gated on the test split.

It runs the exported file, as the service does.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.density import Density
from model_store.manifest import Check, SealedDensity
from model_store.session import Embeddings, Logits, Session
from training.data.image_set import Indices
from training.data.sampling import evenly_spaced
from training.gates.checks import at_most, max_abs
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import run_with_embeddings
from training.run.known_images import is_known_image, read_known_images
from training.steps.calibration_fit import ABSTENTION_LIMIT, largest_share_by_chance
from training.steps.density_fit import DENSITY_IMAGES, fit_density, share_refused
from training.steps.export import EXPORT_MAX_BATCH_SIZE, MODEL_FILE, OUTPUTS, model_input

DENSITY_FILE: Final = "density.npz"
DENSITY_RECORD: Final = "density.json"
DENSITY_CHECK: Final = "density_abstained"
_LARGEST_VALUE: Final = 1e15
"""The squares of larger logits or embeddings could overflow float32 when they are added."""


class FittedDensity(BaseModel):
    """The content of `density.json`.

    Attributes:
        density: The block of the manifest; None if the model abstains by energy alone.
        check: The check of the test split; None if nothing was fitted.
        notice: Why there is no density; empty if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    density: SealedDensity | None = None
    check: Check | None = None
    notice: str = ""


def fit_run_density(run: Run, data: RunData) -> FittedDensity:
    """Fit the density of an exported run. Writes `density.json`, and `density.npz` if it passes."""
    seen = run.config.recipe.learn_validation
    validation = data.split.validation
    if not seen:
        validation = validation[~is_known_image(data.scan, validation, read_known_images(run))]
    session = Session(run.file(MODEL_FILE, "export"), model_input(run), OUTPUTS)
    content, fitted = measure_density(session, data, validation, seen=seen)
    (run.path / DENSITY_FILE).unlink(missing_ok=True)
    if content:
        run.write(DENSITY_FILE, content)
    run.write(DENSITY_RECORD, fitted.model_dump_json(indent=2).encode() + b"\n")
    return fitted


def read_density(run: RunDirectory) -> FittedDensity:
    """Return the content of `density.json`; an older export has none."""
    if not run.has(DENSITY_RECORD):
        return FittedDensity()
    path = run.file(DENSITY_RECORD, "export")
    try:
        return FittedDensity.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise damaged_file_error(path, error) from None


def measure_density(
    session: Session,
    data: RunData,
    validation: Indices,
    *,
    seen: bool,
    all_classes: bool = True,
    batch_size: int = EXPORT_MAX_BATCH_SIZE,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[bytes, FittedDensity]:
    """Fit a density and measure it on the test split.

    Args:
        session: The model, with embeddings.
        data: Its images.
        validation: The images for the threshold.
        seen: Whether the network was trained on `validation`.
        all_classes: Whether every class must have training images.
        batch_size: Images in one run.
        progress: Called with (images done, images in all).

    Returns:
        The file and its record. The file is empty if the record has a notice instead of a density.
    """
    train = evenly_spaced(data.split.train, DENSITY_IMAGES)
    parts = (train, validation, data.split.test)
    total, done = sum(map(len, parts)), 0

    def run(indices: Indices) -> tuple[Logits, Embeddings]:
        nonlocal done
        results = []
        for chunk in data.chunks(indices):
            results.append(run_with_embeddings(session, chunk, batch_size))
            done += len(chunk)
            progress(done, total)
        logits, embeddings = zip(*results, strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)

    density = None
    notice = (
        f"no density: {len(train)} training and {len(validation)} validation images are too few"
    )
    if len(validation):
        (logits, embeddings), fitted = run(train), run(validation)
        largest = max(map(max_abs, (logits, embeddings, *fitted)))
        if largest <= _LARGEST_VALUE:
            labels = data.images.labels[train]
            density = fit_density(embeddings, labels, fitted, seen=seen, all_classes=all_classes)
        else:
            notice = (
                f"no density: logits or embeddings reach {largest:.1e}, so that their distances "
                "overflow. Train with a lower optimizer.learning_rate"
            )
    if density is None:
        return b"", FittedDensity(notice=notice)
    check = check_density(density, *run(data.split.test), fitted_on=len(validation))
    if not check.passed:
        notice = (
            f"no density: the model would abstain on {check.value:.2%} of the test images, allowed "
            f"is {check.threshold:.2%}"
        )
        return b"", FittedDensity(check=check, notice=notice)
    classes, present = len(data.images.class_names), len(np.unique(data.images.labels[train]))
    of_classes = f" of {present} of {classes} classes" if present < classes else ""
    images = (
        f"{len(train)} training images{of_classes}; threshold: {len(validation)} validation images"
    )
    if seen:
        images += ", which were trained on"
    block = SealedDensity(file=DENSITY_FILE, fitted_on=images, abstained=check.value)
    return density.to_bytes(), FittedDensity(density=block, check=check)


def check_density(
    density: Density, logits: Logits, embeddings: Embeddings, *, fitted_on: int
) -> Check:
    """Check the share of test images from which the model abstains by the density."""
    bound = largest_share_by_chance(ABSTENTION_LIMIT, len(logits), fitted_on)
    detail = f"share of {len(logits)} test images on which it abstains by the density"
    finite = np.nan_to_num(logits), np.nan_to_num(embeddings)
    return at_most(DENSITY_CHECK, share_refused(density, *finite), bound, detail)
