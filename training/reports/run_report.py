"""The report of a run: one self-contained page, `report.html`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from model_store.command_line import as_called
from model_store.manifest import Check
from model_store.preprocessing import Pixels
from training.data.image_set import Indices
from training.errors import RunError
from training.gates.gate import GATES_FILE, read_checks, read_notices
from training.gates.vs_previous_version import PREVIOUS_COMPARISON_FILE, read_previous_comparison
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.reports.figures import Line, draw_lines, draw_reliability
from training.reports.history import History, read_history
from training.reports.mistakes import (
    ClassifiedImage,
    SplitPredictions,
    class_metrics,
    confusion_matrix,
    likely_wrong_labels,
    reliability_bins,
    rows_by_cell,
    softmax,
    worst_mistakes,
)
from training.reports.pages import flatten, render_page
from training.reports.thumbnails import make_thumbnails
from training.run.checkpoint import load_checkpoint
from training.run.data import RunData
from training.run.directory import Run
from training.run.inference import predict
from training.run.weights import TrainedNetwork, load_trained
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, read_calibration
from training.steps.evaluate import LOGITS_FILE, read_figures, read_logits

REPORT_FILE: Final = "report.html"
PUBLISHED_REPORT_FILE: Final = "published_report.html"
"""The copy for the published version: without the images of the confusion matrix."""
CELL_THUMBNAILS: Final = 12
"""Largest number of thumbnails of one cell of the confusion matrix."""
MATRIX_THUMBNAILS: Final = 1500
"""Largest number of thumbnails of the whole confusion matrix."""
MATRIX_CLASSES: Final = 100
"""From this number of classes, the page lists the most confused pairs instead of the matrix."""
LISTED_PAIRS: Final = 40
LISTED_MISTAKES: Final = 24
LISTED_LABELS: Final = 36
SMALL_INPUT_SIDE: Final = 64
SMALL_SAMPLE: Final = 60_000
"""Images checked for wrong labels if inputs are small. Takes 30 s (small network, two cores)."""
LARGE_SAMPLE: Final = 4096

ProgressCallback = Callable[[int, int], None]
"""Called with (images done, images in total)."""


@dataclass(frozen=True)
class ConfusionCell:
    """Test images of one label and one predicted class.

    Attributes:
        share: Share of the label's images.
        shade: Darkness of the cell, from 0 to 1.
        shown: Images with a thumbnail.
    """

    label: int
    predicted: int
    images: int
    share: float
    shade: float
    shown: tuple[ClassifiedImage, ...]

    @property
    def is_correct(self) -> bool:
        return self.label == self.predicted


@dataclass(frozen=True)
class CheckedLabels:
    """Number of images of a split that were checked for wrong labels, and their total number."""

    split: str
    images: int
    total: int


def write_run_report(
    run: Run,
    data: RunData,
    progress: ProgressCallback = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
) -> Path:
    """Write the report of a run and its copy to publish, and return the path of the report.

    The run's network predicts the validation and training images again, or a sample of them, to
    find labels that are probably wrong.

    Args:
        progress: Called for the predicted images, then for the thumbnails.
        process: Its device is used for predictions.

    Raises:
        RunError: The run is not evaluated.
        DataError: An image can no longer be read.
    """
    config, figures, history = run.config, read_figures(run), read_history(run)
    test = _test_predictions(run, data)
    others, checked = _other_predictions(data, load_trained(run), config.seed, progress, process)
    wrong_labels = likely_wrong_labels([test, *others])
    mistakes = worst_mistakes(test, LISTED_MISTAKES)
    matrix, has_matrix = confusion_matrix(test), len(data.images.class_names) < MATRIX_CLASSES
    cells = _confusion_cells(test, matrix, all_cells=has_matrix)
    listed = [*mistakes, *wrong_labels[:LISTED_LABELS]]
    listed += [image for cell in cells for image in cell.shown]
    checks, gates_notices = _read_checks(run)
    opened_at = figures.get("opened_at", [])
    bins = reliability_bins(test)
    render = partial(
        render_page,
        "report.html.j2",
        run_id=run.run_id,
        config=config,
        recipe_name=Path(config.recipe_name).name,
        recipe=flatten(config.recipe.model_dump(mode="json")),
        changed={change.partition("=")[0].strip() for change in config.changes},
        data=data,
        figures=figures,
        correct=int(matrix.trace()),
        opened_at=[opened_at] if isinstance(opened_at, str) else opened_at,
        history=history,
        curves=draw_curves(history, figures["best_epoch"]),
        classes=class_metrics(matrix, data.images.class_names),
        matrix=_matrix_rows(cells, len(matrix)) if has_matrix else None,
        cells=cells,
        mistakes=int(matrix.sum() - matrix.trace()),
        worst_mistakes=mistakes,
        wrong_labels=wrong_labels[:LISTED_LABELS],
        wrong_labels_total=len(wrong_labels),
        checked_labels=[CheckedLabels("test", len(test.labels), len(test.labels)), *checked],
        bins=bins,
        reliability=draw_reliability("calibration", bins),
        calibration=_read_calibration(run),
        thumbnails=make_thumbnails(data, [image.index for image in listed], progress),
        retraining=read_previous_comparison(run) if run.has(PREVIOUS_COMPARISON_FILE) else None,
        checks=checks,
        gates_notices=gates_notices,
        environment=_read_environment(run),
    )
    run.write(REPORT_FILE, render(images_of_cells=True))
    run.write(PUBLISHED_REPORT_FILE, render(images_of_cells=False))
    return run.path / REPORT_FILE


def draw_curves(history: History, best_epoch: int) -> list[tuple[str, Markup]]:
    """Captions and drawings of loss, accuracy and learning rate by epoch."""

    def line(label: str, metric: str, series: int) -> Line:
        return Line(label, history.epochs, history.metric(metric), series)

    mark = (best_epoch, f"epoch {best_epoch} kept")
    validation = "validation (trained on)" if history.validation_learned else "validation"
    losses = [line("training", "train_loss", 0), line(validation, "validation_loss", 1)]
    accuracies = [line("training", "train_top1", 0), line(validation, "validation_top1", 1)]
    rates = [line("learning rate", "learning_rate", 2)]
    drawings = (
        ("Loss", draw_lines("loss", losses, logarithmic=True, mark=mark)),
        ("Accuracy", draw_lines("accuracy", accuracies, percent=True, mark=mark)),
        ("Learning rate", draw_lines("rate", rates, legend=False)),
    )
    return [(caption, drawing) for caption, drawing in drawings if drawing is not None]


def _test_predictions(run: Run, data: RunData) -> SplitPredictions:
    logits, indices = read_logits(run), data.split.test
    expected = (len(indices), len(data.images.class_names))
    if logits.shape != expected:
        raise RunError(
            f"{run.path / LOGITS_FILE} has logits of shape {list(logits.shape)}, but the test "
            f"split needs {list(expected)}. Run `{as_called('training evaluate')}` again."
        )
    return SplitPredictions("test", indices, data.images.labels[indices], softmax(logits))


def _other_predictions(
    data: RunData,
    trained: TrainedNetwork,
    seed: int,
    progress: ProgressCallback,
    process: DistributedProcess,
) -> tuple[list[SplitPredictions], list[CheckedLabels]]:
    """Predictions for samples of the validation and training images."""
    spec = data.preprocessing
    is_small = data.uncropped_pixels is not None and (
        max(spec.crop_height, spec.crop_width) <= SMALL_INPUT_SIDE
    )
    limit = SMALL_SAMPLE if is_small else LARGE_SAMPLE
    splits = {"validation": data.split.validation, "train": data.split.train}
    samples = {name: _draw_sample(indices, limit, seed) for name, indices in splits.items()}
    total, done = sum(map(len, samples.values())), 0

    def count_images(chunks: Iterable[Pixels]) -> Iterator[Pixels]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            progress(done, total)

    network = trained.inference_network.to(process.device)
    predictions = []
    for name, indices in samples.items():
        if len(indices):
            chunks = count_images(data.chunks(indices))
            logits = predict(network, chunks, trained.normalize, process).numpy()
            labels = data.images.labels[indices]
            predictions.append(SplitPredictions(name, indices, labels, softmax(logits)))
    return predictions, [
        CheckedLabels(name, len(samples[name]), len(indices)) for name, indices in splits.items()
    ]


def _draw_sample(indices: Indices, limit: int, seed: int) -> Indices:
    """At most `limit` random indices, sorted."""
    if len(indices) <= limit:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, limit, replace=False))


def _confusion_cells(
    test: SplitPredictions, matrix: Indices, *, all_cells: bool
) -> list[ConfusionCell]:
    """Cells with images, row by row. Without `all_cells`: only the largest off the diagonal."""
    rows = rows_by_cell(test)
    if not all_cells:
        wrong = [cell for cell in rows if cell[0] != cell[1]]
        largest = sorted(wrong, key=lambda cell: -len(rows[cell]))[:LISTED_PAIRS]
        rows = {cell: rows[cell] for cell in largest}
    limit = _thumbnails_per_cell([len(images) for images in rows.values()])
    label_counts = matrix.sum(axis=1)
    shares = {cell: float(len(images) / label_counts[cell[0]]) for cell, images in rows.items()}
    wrong_shares = (share for (label, predicted), share in shares.items() if label != predicted)
    largest_wrong = max(wrong_shares, default=1.0)
    cells = []
    for (label, predicted), images in rows.items():
        share = shares[label, predicted]
        shade = share if label == predicted else float(np.sqrt(share / largest_wrong))
        shown = tuple(test.image(row) for row in images[:limit].tolist())
        cells.append(ConfusionCell(label, predicted, len(images), share, shade, shown))
    return cells


def _thumbnails_per_cell(sizes: Sequence[int]) -> int:
    """The largest number of thumbnails per cell, at least 1, that keeps MATRIX_THUMBNAILS."""
    for limit in range(CELL_THUMBNAILS, 1, -1):
        if sum(min(size, limit) for size in sizes) <= MATRIX_THUMBNAILS:
            return limit
    return 1


def _matrix_rows(cells: Iterable[ConfusionCell], classes: int) -> list[list[ConfusionCell | None]]:
    by_position = {(cell.label, cell.predicted): cell for cell in cells}
    return [
        [by_position.get((label, predicted)) for predicted in range(classes)]
        for label in range(classes)
    ]


def _read_calibration(run: Run) -> RunCalibration | None:
    if not run.has(CALIBRATION_FILE):
        return None
    try:
        return read_calibration(run)
    except RunError as error:
        return RunCalibration(notices=(str(error),))


def _read_checks(run: Run) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Results and notices of the gates; only the reason if they cannot be read."""
    if not run.has(GATES_FILE):
        return (), ()
    try:
        return read_checks(run), read_notices(run)
    except RunError as error:
        return (), (str(error),)


def _read_environment(run: Run) -> Mapping[str, Any]:
    """The numeric environment recorded in the checkpoint; empty without a checkpoint."""
    with suppress(RunError):
        environment = (load_checkpoint(run) or {}).get("environment")
        if isinstance(environment, dict):
            return flatten(environment)
    return {}
