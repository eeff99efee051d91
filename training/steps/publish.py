"""Publish: seals the export of a run as the next version of its model."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from model_store.aliases import PRODUCTION
from model_store.errors import ManifestError
from model_store.manifest import Check, Checkpoint, Classifier, Variant, now
from model_store.provenance import DataSet, Metrics, Training
from model_store.store import ModelStore
from model_store.version import MAX_REPORT_BYTES
from training.data.split import SPLIT_SEED
from training.gates.gate import read_checks, require_passed
from training.gates.preprocessing import golden_tolerance
from training.promotion import check_no_promote, pin_serving_version
from training.reports.pages import REPORT_FILE
from training.reports.run_report import PUBLISHED_REPORT_FILE
from training.run.data import RunData
from training.run.directory import Run
from training.run.known_images import KNOWN_IMAGES_FILE, TRAINED_IMAGES_FILE
from training.run.metrics import read_metrics
from training.run.weights import BEST_WEIGHTS
from training.steps.calibrate import CALIBRATION_FILE, read_calibration
from training.steps.density import read_density
from training.steps.evaluate import measure_top_scores, read_figures, read_logits
from training.steps.export import (
    CLASSIFIER_FILE,
    EXPORT_MAX_BATCH_SIZE,
    MODEL_FILE,
    OUTPUTS,
    graph_files,
    model_input,
)
from training.steps.golden import read_golden

PUBLISHED_FILE: Final = "published.json"
CHECKPOINT_WEIGHTS_FILE: Final = "checkpoint.safetensors"


@dataclass(frozen=True)
class Published:
    """A published version; `promoted` says whether `production` points to it."""

    version: int
    promoted: bool


def publish(run: Run, data: RunData, store: ModelStore, *, promote: bool = True) -> Published:
    """Seal the export as the next version, and point `production` to it if all checks passed.

    A run is published once per store. A second call returns the existing version and completes
    what a crash interrupted.

    Args:
        run: The run, with its gates done.
        data: Its data.
        store: Where to publish.
        promote: Whether `production` may move. It never moves if a check was waived.

    Raises:
        GateError: A check failed and was not waived.
        PublishError: `promote` is False and the version would serve nevertheless.
    """
    checks = read_checks(run)
    require_passed(checks)
    model = run.config.model
    promote_version = promote and all(check.passed for check in checks)
    version = _find_published(store, run)
    if version is None:
        if not promote:
            check_no_promote(store, model)
        if not promote_version:
            pin_serving_version(store, model)
        version = store.publish(model, _manifest(run, data, checks), _files(run))
    promoted_before = [event.version for event in store.aliases(model).history(PRODUCTION)]
    if promote_version and version not in promoted_before:
        store.promote(model, version, why=f"published by {run.run_id}")
    published = Published(version, promoted=store.aliases(model).version(PRODUCTION) == version)
    place = {"store": store.absolute_location, "model": model}
    run.write_json(PUBLISHED_FILE, {**place, **asdict(published)})
    return published


def _find_published(store: ModelStore, run: Run) -> int | None:
    """Return the version that this run was published as. Versions derived from it do not count."""
    model = run.config.model
    if not store.exists() or model not in store.models() or store.layer(model) != "published":
        return None
    for number in reversed(store.versions(model)):
        with suppress(ManifestError), store.open_manifest(model, number) as version:
            training = version.manifest.training
            same_run = training is not None and training.run_id == run.run_id
            if same_run and version.manifest.derived_from == run.config.derived_from:
                return number
    return None


def _files(run: Run) -> dict[str, Path | bytes]:
    names = [*graph_files(run), CLASSIFIER_FILE]
    if density := read_density(run).density:
        names.append(density.file)
    names += [path for block in read_golden(run) for path in (block.image, block.pixels)]
    files: dict[str, Path | bytes] = {name: run.file(name, "export") for name in names}
    if run.config.keep_checkpoint:
        files[CHECKPOINT_WEIGHTS_FILE] = run.file(BEST_WEIGHTS, "resume")
    if report := report_to_publish(run):
        files[REPORT_FILE] = report
    files[KNOWN_IMAGES_FILE] = run.file(TRAINED_IMAGES_FILE, "resume")
    return files


def report_to_publish(run: Run) -> Path | None:
    """The report, if the run has one and the version may hold it."""
    path = run.path / PUBLISHED_REPORT_FILE
    if run.config.keep_report and path.is_file() and path.stat().st_size <= MAX_REPORT_BYTES:
        return path
    return None


def _manifest(run: Run, data: RunData, checks: tuple[Check, ...]) -> dict[str, Any]:
    config, figures = run.config, read_figures(run)
    calibration = read_calibration(run).calibration if run.has(CALIBRATION_FILE) else None
    return {
        "created_at": now(),
        "derived_from": config.derived_from,
        "input": model_input(run),
        "outputs": OUTPUTS,
        "preprocessing": data.preprocessing,
        "class_names": data.images.class_names,
        "max_batch_size": EXPORT_MAX_BATCH_SIZE,
        "variants": (Variant(precision="fp32", file=MODEL_FILE, tolerance=golden_tolerance(run)),),
        "classifier": Classifier(file=CLASSIFIER_FILE),
        "density": read_density(run).density,
        "checkpoint": Checkpoint(file=CHECKPOINT_WEIGHTS_FILE) if config.keep_checkpoint else None,
        "calibration": calibration,
        "training": Training(
            run_id=run.run_id,
            command=config.command,
            git_commit=config.git_commit,
            architecture=config.architecture,
            recipe=config.recipe.model_dump(mode="json"),
            data=_describe_data(data),
            seed=config.seed,
            epochs=len(read_metrics(run)),
            best_epoch=figures["best_epoch"],
            packages=config.packages,
            report=REPORT_FILE if report_to_publish(run) else None,
        ),
        "metrics": Metrics(
            top1=figures["top1"],
            top1_interval=tuple(figures["top1_interval"]),
            top5=figures["top5"],
            test_images=figures["test_images"],
            ece=figures["ece"],
            loss=figures["loss"],
            top_scores=measure_top_scores(read_logits(run), OUTPUTS, calibration),
        ),
        "gate": checks,
        "golden": read_golden(run),
    }


def _describe_data(data: RunData) -> DataSet:
    images = data.images
    return DataSet(
        name=images.name,
        digest=data.digest,
        source=images.source,
        licence=images.licence,
        split={name: len(indices) for name, indices in vars(data.split).items()},
        split_seed=SPLIT_SEED,
    )
