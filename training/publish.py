"""Publish: a run whose gates passed becomes a sealed version."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from model_store.manifest import Classifier, DataSet, Metrics, Training, Variant, now
from model_store.store import ModelStore
from training.data import SPLIT_SEED, ImageSet
from training.evaluation import EVALUATION
from training.export import CLASSIFIER, MODEL, OUTPUTS, model_input
from training.gates import LOGIT_TOLERANCE, MAX_BATCH_SIZE, read_checks, require_passed
from training.golden import read_golden
from training.run_directory import RunDirectory

PUBLISHED: Final = "published.json"
_PACKAGES: Final = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "pillow", "numpy", "scikit-learn")


def publish(run: RunDirectory, data: ImageSet, store: ModelStore, *, promote: bool = True) -> int:
    """Seal the run's export under the model's next version and return it; `production` follows where every check passed.

    Raises GateError where a check failed that nobody waived.
    """
    checks = read_checks(run)
    require_passed(checks)
    config, golden = run.config(), read_golden(run)
    figures = run.read_json(EVALUATION, "evaluate")
    files: dict[str, Path | bytes] = {name: run.file(name, "export") for name in (MODEL, CLASSIFIER)}
    files |= {path: run.file(path, "export") for block in golden for path in (block.image, block.pixels)}
    manifest: dict[str, Any] = {
        "created_at": now(),
        "input": model_input(data),
        "outputs": OUTPUTS,
        "preprocessing": data.preprocessing,
        "class_names": data.class_names,
        "max_batch_size": MAX_BATCH_SIZE,
        "variants": (Variant(precision="fp32", file=MODEL, tolerance=LOGIT_TOLERANCE),),
        "classifier": Classifier(file=CLASSIFIER),
        "training": Training(
            run_id=run.run_id,
            command=config.command,
            git_commit=_git_commit(),
            architecture=config.architecture,
            recipe=config.recipe.to_values(),
            data=_describe_data(run, data),
            seed=config.seed,
            epochs=config.recipe.epochs,
            best_epoch=figures["best_epoch"],
            packages={name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        ),
        "metrics": Metrics(
            top1=figures["top1"],
            top1_interval=tuple(figures["top1_interval"]),
            top5=figures["top5"],
            test_images=figures["test_images"],
            loss=figures["loss"],
        ),
        "gate": checks,
        "golden": golden,
    }
    version = store.publish(config.model, manifest, files)
    if promote:
        store.promote(config.model, version, why=f"published by {run.run_id}")
    run.write_json(PUBLISHED, {"store": str(store.root), "model": config.model, "version": version, "promoted": promote})
    return version


def _describe_data(run: RunDirectory, data: ImageSet) -> DataSet:
    sizes = {name: len(indices) for name, indices in vars(run.split()).items()}
    return DataSet(name=data.name, digest=data.digest, source=data.source, licence=data.licence, split=sizes, split_seed=SPLIT_SEED)


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
