"""Publishes a variant as the next version of its model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_store.command_line import as_called
from model_store.manifest import Variant
from model_store.store import ModelStore
from model_store.version import Version
from training.derived_version import publish_derived
from training.errors import QuantizationError
from training.quantization.graph import require_float32
from training.quantization.quantized_variant import QuantizedVariant
from training.steps.publish import Published


@contextmanager
def open_source_version(store: ModelStore, reference: str) -> Iterator[Version]:
    """Open MODEL or MODEL/VERSION.

    Raises:
        QuantizationError: The version has no fp32 file, the file holds another precision, or
            `reference` is an ONNX file.
    """
    if reference.lower().endswith(".onnx") and (path := Path(reference)).is_file():
        require_float32(path.read_bytes(), path)
        raise QuantizationError(
            f"{path} is a file, expected MODEL or MODEL/VERSION of the store; publish it first: "
            f"{as_called('training import')} --onnx {path} …"
        )
    model, _, number = reference.partition("/")
    with store.open(model, store.resolve(model, number or None)) as version:
        if all(variant.precision != "fp32" for variant in version.manifest.variants):
            raise QuantizationError(
                f"{version} has no fp32 file to convert; choose another version"
            )
        require_float32(version.read_file(version.variant("fp32").file), version)
        yield version


def publish_variant(
    version: Version, quantized: QuantizedVariant, store: ModelStore, *, promote: bool = True
) -> Published:
    """Seal the version's files and the variant as the model's next version.

    `production` moves to the variant if it pointed to `version` or did not exist, and if every
    check passed without a waiver. A variant of an older version must not cause a rollback.

    Raises:
        PublishError: If `promote` is False but the new version would be served anyway.
    """
    manifest = version.manifest
    file = f"model.{quantized.precision}.onnx"
    others = tuple(
        variant for variant in manifest.variants if variant.precision != quantized.precision
    )
    replaced = {variant.file for variant in manifest.variants} - {other.file for other in others}
    files: dict[str, bytes] = {
        entry.path: version.read_file(entry.path)
        for entry in manifest.files
        if entry.path not in replaced
    }
    files[file] = quantized.data
    variant = Variant(
        precision=quantized.precision,
        file=file,
        tolerance=quantized.tolerance,
        golden_logits=quantized.golden_logits,
        gate=quantized.checks,
    )
    changes: dict[str, Any] = {"variants": (*others, variant)}
    if (metrics := manifest.metrics) and not metrics.top_scores:  # of an older release
        changes["metrics"] = metrics.model_copy(update={"top_scores": quantized.top_scores})
    return publish_derived(
        version,
        store,
        changes,
        files,
        why=f"{quantized.precision} of {version}",
        promote=promote,
        passed=quantized.passed,
    )
