"""The report: everything there is to see of a run in one self-contained `report.html`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from model_store.manifest import Check
from model_store.preprocessing import Pixels
from training.data.image_set import Indices
from training.errors import RunError
from training.gates.gate import GATES_FILE, read_checks
from training.gates.vs_previous_version import SUCCESSION_FILE, read_previous_comparison
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.reports.figures import Line, draw_lines, draw_reliability
from training.reports.history import History, read_history
from training.reports.mistakes import (
    ClassifiedImage,
    SplitPredictions,
    confusion_matrix,
    figures_by_class,
    likely_wrong_labels,
    reliability,
    rows_by_cell,
    softmax,
    worst_mistakes,
)
from training.reports.pages import fill, flattened
from training.reports.thumbnails import make_thumbnails
from training.run.checkpoint import load_checkpoint
from training.run.data import RunData
from training.run.directory import RunDirectory
from training.run.inference import predict
from training.run.weights import Trained, load_trained
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, read_calibration
from training.steps.evaluate import LOGITS_FILE, read_figures, read_logits

REPORT: Final = "report.html"
CELL_PICTURES: Final = 12
PICTURES: Final = 1500
MATRIX_CLASSES: Final = 100
PAIRS: Final = 40
WORST: Final = 24
DOUBTED: Final = 36
AFFORDABLE: Final = (
    60_000  # images of at most SMALL pixels a side, half a minute of a small network on two cores
)
SMALL: Final = 64
SAMPLE: Final = 4096

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ConfusionCell:
    """Test images of one class that were taken for one class; `shown` of them have pictures. `shade` is from 0 to 1."""

    label: int
    predicted: int
    images: int
    share: float
    shade: float
    shown: tuple[ClassifiedImage, ...]

    @property
    def right(self) -> bool:
        """Whether it lies on the diagonal."""
        return self.label == self.predicted


@dataclass(frozen=True)
class LabelCheck:
    """How many images of a split were looked at for wrong labels."""

    split: str
    images: int
    of: int


def write_run_report(
    run: RunDirectory,
    data: RunData,
    progress: Progress = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
) -> Path:
    """Write the run's `report.html` anew; its path. Reads the run, and changes nothing else in it.

    Validation and training images are predicted once more, on the process's device, to find labels that are likely wrong;
    where they are many or large, a sample of them. `progress` hears (images done, images in all), first for these, then for the
    pictures. Raises RunError where the run has not been evaluated, DataError where an image can not be read any more.
    """
    config, figures, history = run.config(), read_figures(run), read_history(run)
    test = _test_answers(run, data)
    others, looked = _other_answers(data, load_trained(run), config.seed, progress, process)
    doubted = likely_wrong_labels([test, *others])
    worst = worst_mistakes(test, WORST)
    matrix, bins = confusion_matrix(test), reliability(test)
    cells = _cells(test, matrix, full=len(matrix) < MATRIX_CLASSES)
    shown = [*worst, *doubted[:DOUBTED], *(answer for cell in cells for answer in cell.shown)]
    checks, gates_notice = _checks(run)
    opened = figures.get("opened_at", [])
    page = fill(
        "report.html.j2",
        run_id=run.run_id,
        config=config,
        recipe=flattened(config.recipe.model_dump(mode="json")),
        changed={change.partition("=")[0].strip() for change in config.changes},
        data=data,
        figures=figures,
        ece=sum(bin_.images * abs(bin_.confidence - bin_.accuracy) for bin_ in bins)
        / len(test.labels),
        correct=int(matrix.trace()),
        opened=[opened] if isinstance(opened, str) else opened,
        history=history,
        curves=draw_curves(history, figures["best_epoch"]),
        classes=figures_by_class(matrix, data.images.class_names),
        matrix=_as_rows(cells, len(matrix)) if len(matrix) < MATRIX_CLASSES else None,
        cells=cells,
        mistakes=int(matrix.sum() - matrix.trace()),
        worst=worst,
        doubted=doubted[:DOUBTED],
        doubts=len(doubted),
        looked=[LabelCheck("test", len(test.labels), len(test.labels)), *looked],
        bins=bins,
        diagram=draw_reliability("calibration", bins),
        calibrated=_calibrated(run),
        pictures=make_thumbnails(data, [answer.index for answer in shown], progress),
        succession=read_previous_comparison(run) if run.has(SUCCESSION_FILE) else None,
        checks=checks,
        gates_notice=gates_notice,
        environment=_environment(run),
    )
    run.write(REPORT, page)
    return run.path / REPORT


def draw_curves(history: History, best_epoch: int) -> list[tuple[str, Markup]]:
    """Loss, accuracy and learning rate by epoch, each with its caption."""

    def line(label: str, column: str, series: int) -> Line:
        return Line(label, history.epochs, history.column(column), series)

    mark = (best_epoch, f"epoch {best_epoch} kept")
    train, validation = (
        "training",
        "validation, trained on too" if history.validation_learned else "validation",
    )
    losses = [line(train, "train_loss", 0), line(validation, "validation_loss", 1)]
    accuracies = [line(train, "train_top1", 0), line(validation, "validation_top1", 1)]
    drawings = (
        ("Loss", draw_lines("loss", losses, logarithmic=True, mark=mark)),
        ("Accuracy", draw_lines("accuracy", accuracies, percent=True, mark=mark)),
        (
            "Learning rate",
            draw_lines("rate", [line("learning rate", "learning_rate", 2)], legend=False),
        ),
    )
    return [(caption, drawing) for caption, drawing in drawings if drawing is not None]


def _test_answers(run: RunDirectory, data: RunData) -> SplitPredictions:
    logits, indices = read_logits(run), data.split.test
    if logits.shape != (len(indices), len(data.images.class_names)):
        raise RunError(
            f"{run.path / LOGITS_FILE} is of {logits.shape[0]} images in {logits.shape[1]} classes, and the test split is not"
        )
    return SplitPredictions("test", indices, data.images.labels[indices], softmax(logits))


def _other_answers(
    data: RunData, trained: Trained, seed: int, progress: Progress, process: DistributedProcess
) -> tuple[list[SplitPredictions], list[LabelCheck]]:
    """What the network says of validation and training images, as many as are affordable."""
    spec = data.preprocessing
    small = data.canvas is not None and max(spec.crop_height, spec.crop_width) <= SMALL
    chosen = {
        name: _sample(indices, AFFORDABLE if small else SAMPLE, seed)
        for name, indices in (("validation", data.split.validation), ("train", data.split.train))
    }
    total, done = sum(map(len, chosen.values())), 0

    def counted(chunks: Iterable[Pixels]) -> Iterator[Pixels]:
        nonlocal done
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            progress(done, total)

    network = trained.answering.to(process.device)
    answers = []
    for name, indices in chosen.items():
        if len(indices):
            logits = predict(
                network, counted(data.chunks(indices)), trained.normalize, process
            ).numpy()
            answers.append(
                SplitPredictions(name, indices, data.images.labels[indices], softmax(logits))
            )
    return answers, [
        LabelCheck(name, len(indices), len(getattr(data.split, name)))
        for name, indices in chosen.items()
    ]


def _sample(indices: Indices, limit: int, seed: int) -> Indices:
    """At most `limit` of them, drawn by the seed, in order."""
    if len(indices) <= limit:
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, limit, replace=False))


def _cells(test: SplitPredictions, matrix: Indices, *, full: bool) -> list[ConfusionCell]:
    """The cells of the matrix that hold images, row by row; without a `full` one, the largest off the diagonal."""
    rows = rows_by_cell(test)
    if not full:
        wrong = [place for place in rows if place[0] != place[1]]
        rows = {
            place: rows[place]
            for place in sorted(wrong, key=lambda place: -len(rows[place]))[:PAIRS]
        }
    limit = _pictures_a_cell([len(cell) for cell in rows.values()])
    of_label = matrix.sum(axis=1)
    most = max(
        (
            len(cell) / of_label[label]
            for (label, predicted), cell in rows.items()
            if label != predicted
        ),
        default=1.0,
    )
    cells = []
    for (label, predicted), cell in rows.items():
        share = float(len(cell) / of_label[label])
        shade = share if label == predicted else float(np.sqrt(share / most))
        cells.append(
            ConfusionCell(
                label,
                predicted,
                len(cell),
                share,
                shade,
                tuple(map(test.answer, cell[:limit].tolist())),
            )
        )
    return cells


def _pictures_a_cell(sizes: Sequence[int]) -> int:
    """The most pictures of each cell that keep the page within bounds, at least one."""
    fitting = (
        limit
        for limit in range(CELL_PICTURES, 1, -1)
        if sum(min(size, limit) for size in sizes) <= PICTURES
    )
    return next(fitting, 1)


def _as_rows(cells: Iterable[ConfusionCell], classes: int) -> list[list[ConfusionCell | None]]:
    by_place = {(cell.label, cell.predicted): cell for cell in cells}
    return [
        [by_place.get((label, predicted)) for predicted in range(classes)]
        for label in range(classes)
    ]


def _calibrated(run: RunDirectory) -> RunCalibration | None:
    """What calibration does; where its file can not be read, the reason as a notice."""
    if not run.has(CALIBRATION_FILE):
        return None
    try:
        return read_calibration(run)
    except RunError as error:
        return RunCalibration(notices=(str(error),))


def _checks(run: RunDirectory) -> tuple[tuple[Check, ...], str | None]:
    """What the gates found, and why that is not to be had where it is not."""
    if not run.has(GATES_FILE):
        return (), None
    try:
        return read_checks(run), None
    except RunError as error:
        return (), str(error)


def _environment(run: RunDirectory) -> Mapping[str, Any]:
    """What the bits depend on, from the checkpoint; empty where there is none."""
    with suppress(RunError):
        environment = (load_checkpoint(run) or {}).get("environment")
        if isinstance(environment, dict):
            return flattened(environment)
    return {}
