"""Publish: a run whose gates passed becomes a sealed version."""

import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from model_store.aliases import PRODUCTION
from model_store.errors import ManifestError, PublishError
from model_store.manifest import Check, Checkpoint, Classifier, DataSet, Metrics, Training, Variant, now
from model_store.store import ModelStore
from training.calibration import CALIBRATION, read_calibration
from training.checks import LOGIT_TOLERANCE
from training.data.split import SPLIT_SEED
from training.evaluation import read_figures
from training.export import CLASSIFIER, MODEL, OUTPUTS, graph_files, model_input
from training.gates import MAX_BATCH_SIZE, read_checks, require_passed
from training.golden import read_golden
from training.run_data import KNOWN_IMAGES, RunData, known_images
from training.run_directory import RunDirectory
from training.train import read_metrics
from training.weights import BEST

PUBLISHED: Final = "published.json"
CHECKPOINT: Final = "checkpoint.safetensors"
_PACKAGES: Final = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Published:
    """Where a run went; `promoted` is whether `production` points to it now."""

    version: int
    promoted: bool


def publish(run: RunDirectory, data: RunData, store: ModelStore, *, promote: bool = True) -> Published:
    """Seal the run's export under the model's next version; `production` follows where every check passed unwaived.

    A run is published once to a store: doing it again finds the version, and finishes what a crash cut off. Raises GateError
    where a check failed that nobody waived.
    """
    checks = read_checks(run)
    require_passed(checks)
    model = run.config().model
    version = _find_published(store, model, run)
    if version is None:
        version = _seal(run, data, store, checks)
    moves = [event.version for event in store.aliases(model).history(PRODUCTION)]
    if promote and version not in moves and all(check.passed for check in checks):
        store.promote(model, version, why=f"published by {run.run_id}")
    published = Published(version, promoted=store.aliases(model).version(PRODUCTION) == version)
    run.write_json(PUBLISHED, {"store": str(store.root.resolve()), "model": model, **asdict(published)})
    return published


def make_store(store: ModelStore) -> None:
    """Make the store's directory where it is not there yet.

    Raises PublishError where it could not be written to: better before the training than after it.
    """
    root = store.root.resolve()
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise PublishError(f"can not write to the store {store.root}: {nearest} is not a writable directory")
    root.mkdir(parents=True, exist_ok=True)


def describe_origin() -> dict[str, Any]:
    """The commit and the packages that a run begins with, as Config keeps them."""
    packages = {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    return {"git_commit": _git_commit(), "packages": packages}


def _find_published(store: ModelStore, model: str, run: RunDirectory) -> int | None:
    """The version that this run was published as, if it was; neither a damaged one nor another precision made of it later."""
    derived_from = run.config().derived_from
    if not store.root.exists() or model not in store.models() or store.layer(model) != "published":
        return None
    for number in reversed(store.versions(model)):
        with suppress(ManifestError), store.open(model, number, verify=False) as version:
            training = version.manifest.training
            if training is not None and training.run_id == run.run_id and version.manifest.derived_from == derived_from:
                return number
    return None


def _seal(run: RunDirectory, data: RunData, store: ModelStore, checks: tuple[Check, ...]) -> int:
    config, golden = run.config(), read_golden(run)
    figures = read_figures(run)
    files: dict[str, Path | bytes] = {name: run.file(name, "export") for name in (*graph_files(run), CLASSIFIER)}
    files |= {path: run.file(path, "export") for block in golden for path in (block.image, block.pixels)}
    if config.keep_checkpoint:
        files[CHECKPOINT] = run.file(BEST, "resume")
        if known := known_images(run, data):
            files[KNOWN_IMAGES] = known
    manifest: dict[str, Any] = {
        "created_at": now(),
        "derived_from": config.derived_from,
        "input": model_input(run),
        "outputs": OUTPUTS,
        "preprocessing": data.preprocessing,
        "class_names": data.images.class_names,
        "max_batch_size": MAX_BATCH_SIZE,
        "variants": (Variant(precision="fp32", file=MODEL, tolerance=LOGIT_TOLERANCE),),
        "classifier": Classifier(file=CLASSIFIER),
        "checkpoint": Checkpoint(file=CHECKPOINT) if config.keep_checkpoint else None,
        "calibration": read_calibration(run).calibration if run.has(CALIBRATION) else None,
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
        name=images.name, digest=data.digest, source=images.source, licence=images.licence, split=sizes, split_seed=SPLIT_SEED
    )


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
