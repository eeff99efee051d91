"""Publish: a run whose gates passed becomes a sealed version."""

import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, get_args

from model_store.aliases import PRODUCTION, rollback_history
from model_store.errors import ManifestError, PublishError
from model_store.manifest import Check, Checkpoint, Classifier, Precision, Variant, now
from model_store.provenance import DataSet, Metrics, Training
from model_store.store import ModelStore
from training.data.split import SPLIT_SEED
from training.gates.checks import LOGIT_TOLERANCE
from training.gates.gate import EXPORT_MAX_BATCH_SIZE, read_checks, require_passed
from training.run.data import KNOWN_IMAGES_FILE, RunData, known_images
from training.run.directory import RunDirectory
from training.run.weights import BEST_WEIGHTS
from training.steps.calibrate import CALIBRATION_FILE, read_calibration
from training.steps.evaluate import read_figures
from training.steps.export import CLASSIFIER_FILE, MODEL_FILE, OUTPUTS, graph_files, model_input
from training.steps.golden import read_golden
from training.steps.train import read_metrics

PUBLISHED_FILE: Final = "published.json"
CHECKPOINT_WEIGHTS_FILE: Final = "checkpoint.safetensors"
_PACKAGES: Final = (
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "pillow",
    "numpy",
    "scikit-learn",
)


@dataclass(frozen=True)
class Published:
    """Where a run went; `promoted` is whether `production` points to it now."""

    version: int
    promoted: bool


def publish(
    run: RunDirectory, data: RunData, store: ModelStore, *, promote: bool = True
) -> Published:
    """Seal the run's export under the model's next version; `production` follows where every check passed unwaived.

    A run is published once to a store: doing it again finds the version, and finishes what a crash cut off. Raises GateError
    where a check failed that nobody waived, PublishError where `promote` is False and the version would serve all the same.
    """
    checks = read_checks(run)
    require_passed(checks)
    model = run.config().model
    follows = promote and all(check.passed for check in checks)
    version = _find_published(store, model, run)
    if version is None:
        if not promote:
            require_promotable(store, model)
        if not follows:
            pin_serving_version(store, model)
        version = _seal(run, data, store, checks)
    moves = [event.version for event in store.aliases(model).history(PRODUCTION)]
    if follows and version not in moves:
        store.promote(model, version, why=f"published by {run.run_id}")
    published = Published(version, promoted=store.aliases(model).version(PRODUCTION) == version)
    run.write_json(
        PUBLISHED_FILE, {"store": str(store.root.resolve()), "model": model, **asdict(published)}
    )
    return published


def create_store(store: ModelStore) -> None:
    """Make the store's directory where it is not there yet.

    Raises PublishError where it could not be written to: better before the training than after it.
    """
    root = store.root.resolve()
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PublishError(
            f"can not write to the store {store.root}: {nearest} is not a writable directory"
        )
    root.mkdir(parents=True, exist_ok=True)


def require_promotable(store: ModelStore, model: str) -> None:
    """Raise PublishError where no version of the model can be held back: a built-in one has no alias, so the next would hide it."""
    create_store(store)
    if model in store.models() and store.layer(model) == "built-in":
        raise PublishError(
            f"{model} is built in, and a version published under its name would hide it and serve, promoted or not: leave "
            "--no-promote out, or publish to a store that the service does not read (--store)"
        )


def pin_serving_version(store: ModelStore, model: str) -> None:
    """Before a version that is held back: where no alias says what serves the newest does, so name that one first."""
    if not store.root.exists() or model not in store.models() or store.layer(model) == "built-in":
        return
    if store.aliases(model).version(PRODUCTION) is None:
        store.promote(
            model,
            store.versions(model)[-1],
            why="it served when a version was published that is held back",
        )


def missing_precisions(
    store: ModelStore, model: str, version: int
) -> tuple[int, tuple[Precision, ...]] | None:
    """The version that served before this one (or does still), with the precisions that it has and this one lacks, if any."""
    served = rollback_history(store.aliases(model).history(PRODUCTION)) or store.versions(model)
    there = store.versions(model)
    before = next(
        (number for number in reversed(served) if number != version and number in there), None
    )
    if before is None:
        return None
    with suppress(ManifestError):  # a damaged version answers in no precision
        with (
            store.open(model, before, verify=False) as old,
            store.open(model, version, verify=False) as new,
        ):
            has, had = (
                {variant.precision for variant in each.manifest.variants} for each in (new, old)
            )
        lost = tuple(precision for precision in get_args(Precision) if precision in had - has)
        return (before, lost) if lost else None
    return None


def describe_origin() -> dict[str, Any]:
    """The commit and the packages that a run begins with, as Config keeps them."""
    packages = {name: metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version()
    }
    return {"git_commit": _git_commit(), "packages": packages}


def _find_published(store: ModelStore, model: str, run: RunDirectory) -> int | None:
    """The version that this run was published as, if it was; neither a damaged one nor another precision made of it later."""
    derived_from = run.config().derived_from
    if not store.root.exists() or model not in store.models() or store.layer(model) != "published":
        return None
    for number in reversed(store.versions(model)):
        with suppress(ManifestError), store.open(model, number, verify=False) as version:
            training = version.manifest.training
            if (
                training is not None
                and training.run_id == run.run_id
                and version.manifest.derived_from == derived_from
            ):
                return number
    return None


def _seal(run: RunDirectory, data: RunData, store: ModelStore, checks: tuple[Check, ...]) -> int:
    config, golden = run.config(), read_golden(run)
    figures = read_figures(run)
    files: dict[str, Path | bytes] = {
        name: run.file(name, "export") for name in (*graph_files(run), CLASSIFIER_FILE)
    }
    files |= {
        path: run.file(path, "export") for block in golden for path in (block.image, block.pixels)
    }
    if config.keep_checkpoint:
        files[CHECKPOINT_WEIGHTS_FILE] = run.file(BEST_WEIGHTS, "resume")
        if known := known_images(run, data):
            files[KNOWN_IMAGES_FILE] = known
    manifest: dict[str, Any] = {
        "created_at": now(),
        "derived_from": config.derived_from,
        "input": model_input(run),
        "outputs": OUTPUTS,
        "preprocessing": data.preprocessing,
        "class_names": data.images.class_names,
        "max_batch_size": EXPORT_MAX_BATCH_SIZE,
        "variants": (Variant(precision="fp32", file=MODEL_FILE, tolerance=LOGIT_TOLERANCE),),
        "classifier": Classifier(file=CLASSIFIER_FILE),
        "checkpoint": Checkpoint(file=CHECKPOINT_WEIGHTS_FILE) if config.keep_checkpoint else None,
        "calibration": read_calibration(run).calibration if run.has(CALIBRATION_FILE) else None,
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
        ),
        "metrics": Metrics(
            top1=figures["top1"],
            top1_interval=tuple(figures["top1_interval"]),
            top5=figures["top5"],
            test_images=figures["test_images"],
            ece=figures["ece"],
            loss=figures["loss"],
        ),
        "gate": checks,
        "golden": golden,
    }
    return store.publish(config.model, manifest, files)


def _describe_data(data: RunData) -> DataSet:
    sizes = {name: len(indices) for name, indices in vars(data.split).items()}
    images = data.images
    return DataSet(
        name=images.name,
        digest=data.digest,
        source=images.source,
        licence=images.licence,
        split=sizes,
        split_seed=SPLIT_SEED,
    )


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked where files differ from it; None outside a checkout."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
