"""Fits the density of a published version and publishes it as the next version."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_store.manifest import Check, Manifest
from model_store.sealed_model import model_files
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import Version
from training.derived_version import publish_derived
from training.errors import CalibrationError, ExportError
from training.importing.embedding_output import add_embedding_output
from training.run.data import RunData
from training.steps.density import measure_density
from training.steps.export import EXPORT_MAX_BATCH_SIZE
from training.steps.publish import Published


def publish_with_density(
    version: Version,
    data: RunData,
    store: ModelStore,
    progress: Callable[[int, int], None] = lambda *_: None,
    *,
    promote: bool,
) -> tuple[Published, Check]:
    """Fit, check and publish. A version without the output `embedding` gets it too.

    For an imported network, some classes may have no images: 1,000 labels are hard to cover.

    Raises:
        CalibrationError: There are too few images, or too many test images would be refused.
        ExportError: The version has other variants than fp32, or no embedding can be added.
        PublishError: If `promote` is False but the new version would be served anyway.
    """
    manifest, file = version.manifest, version.variant("fp32").file
    if len(manifest.variants) > 1:
        raise ExportError(
            f"{version} has variants in other precisions, which would lack the density. Fit it to "
            "the version that they were converted from, and convert that again"
        )
    files = {entry.path: version.read_file(entry.path) for entry in manifest.files}
    changes: dict[str, Any] = {}
    if manifest.outputs.embedding is None:
        files[file], changes["outputs"] = add_embedding_output(version)
    outputs = changes.get("outputs", manifest.outputs)
    with TemporaryDirectory(prefix="density-") as folder:
        for name in model_files(manifest, version.variant("fp32")):
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(files[name])
        content, fitted = measure_density(
            Session(Path(folder) / file, manifest.input, outputs),
            data,
            data.split.validation,
            seen=_was_trained_on_validation(manifest),
            all_classes=manifest.imported is None,
            batch_size=min(EXPORT_MAX_BATCH_SIZE, manifest.max_batch_size),
            progress=progress,
        )
    if fitted.density is None or fitted.check is None:
        raise CalibrationError(f"{version}: {fitted.notice}; nothing was published")
    files[fitted.density.file] = content
    others = tuple(check for check in manifest.gate if check.check != fitted.check.check)
    changes |= {"density": fitted.density, "gate": (*others, fitted.check)}
    why = f"{version} with a density"
    published = publish_derived(version, store, changes, files, why=why, promote=promote)
    return published, fitted.check


def _was_trained_on_validation(manifest: Manifest) -> bool:
    return (
        manifest.training is not None
        and manifest.training.recipe.get("learn_validation", False) is True
    )
