"""The report of a run: one self-contained page, `report.html`."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
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
from training.reports.figures import Line, draw_lines
from training.reports.history import History, read_history
from training.reports.mistakes import SplitPredictions, likely_wrong_labels, softmax
from training.reports.pages import REPORT_FILE, flatten, render_page
from training.reports.predictions import CheckedLabels, describe_predictions, listed_images
from training.reports.thumbnails import make_thumbnails
from training.run.checkpoint import load_checkpoint
from training.run.data import RunData
from training.run.directory import Run
from training.run.inference import predict
from training.run.weights import TrainedNetwork, load_trained
from training.steps.calibrate import CALIBRATION_FILE, RunCalibration, read_calibration
from training.steps.density import read_density
from training.steps.evaluate import LOGITS_FILE, read_figures, read_logits

PUBLISHED_REPORT_FILE: Final = "published_report.html"
"""The copy for the published version: without the images of the confusion matrix."""
SMALL_INPUT_SIDE: Final = 64
SMALL_SAMPLE: Final = 60_000
"""Images checked for wrong labels if inputs are small. Takes 30 s (small network, two cores)."""
LARGE_SAMPLE: Final = 4096

ProgressCallback = Callable[[int, int], None]
"""Called with (images done, images in total)."""


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
    classified = describe_predictions(test, wrong_labels, data.images.class_names)
    listed = listed_images(classified)
    listed += [image for cell in classified["cells"] for image in cell.shown]
    checks, gates_notices = _read_checks(run)
    opened_at = figures.get("opened_at", [])
    calibration = _read_calibration(run)
    render = partial(
        render_page,
        "report.html.j2",
        run_id=run.run_id,
        config=config,
        recipe_name=Path(config.recipe_name).name,
        recipe=flatten(config.recipe.model_dump(mode="json")),
        changed={change.partition("=")[0].strip() for change in config.changes},
        images=data.images,
        data=data,
        figures=figures,
        **classified,
        opened_at=[opened_at] if isinstance(opened_at, str) else opened_at,
        history=history,
        curves=draw_curves(history, figures["best_epoch"]),
        checked_labels=[CheckedLabels("test", len(test.labels), len(test.labels)), *checked],
        calibration=calibration.calibration,
        calibrated={"validation": calibration.validation, "test": calibration.test},
        calibration_notices=calibration.notices,
        density=read_density(run).density,
        thumbnails=make_thumbnails(data.chunks, [image.index for image in listed], progress),
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


def _read_calibration(run: Run) -> RunCalibration:
    if not run.has(CALIBRATION_FILE):
        return RunCalibration()
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
