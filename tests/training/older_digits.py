"""The built-in digits as older releases published them: in fp32, without report and top scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_store.store import BUILTIN_ROOT, ModelStore

DIGITS = "digits-resnet20"
BUILTIN = ModelStore(BUILTIN_ROOT, builtin_root=None)


def publish_older_digits(
    root: Path, other_files: Mapping[str, bytes] | None = None, **changes: Any
) -> ModelStore:
    """Publish version 1 in a new store, with other contents of files and of the manifest."""
    root.mkdir()
    store = ModelStore(root)
    with BUILTIN.open(DIGITS, 1) as version:
        manifest = version.manifest
        fields = {name: getattr(manifest, name) for name in type(manifest).model_fields}
        files = {entry.path: version.read_file(entry.path) for entry in manifest.files}
        assert manifest.metrics is not None
    del fields["files"], fields["model"], files["report.html"], files["model.int8.onnx"]
    fields["variants"] = tuple(each for each in manifest.variants if each.precision == "fp32")
    fields["metrics"] = manifest.metrics.model_copy(update={"report": None, "top_scores": None})
    store.publish(DIGITS, fields | changes, {**files, **(other_files or {})})
    return store
