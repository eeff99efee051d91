"""A version as text for people: what `python -m model_store show` prints."""

from collections.abc import Iterator, Sequence

from model_store.geometry import describe_geometry
from model_store.manifest import Check, Manifest
from model_store.version import Version

SHOWN_CLASSES = 10


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def describe_version(version: Version) -> Iterator[str]:
    """The lines of `show`: identity, input, classes, origin, metrics, gates, variants."""
    manifest = version.manifest
    yield f"{version} ({version.layer}, {manifest.proof})  sha256:{version.digest}"
    for line in _describe_manifest(manifest):
        yield f"  {line}"


def _describe_manifest(manifest: Manifest) -> Iterator[str]:
    size = sum(entry.size for entry in manifest.files) / 1e6
    count = len(manifest.files)
    classes = len(manifest.class_names)
    names = ", ".join(manifest.class_names[:SHOWN_CLASSES]) + ", …" * (classes > SHOWN_CLASSES)
    resize = f"{describe_geometry(manifest.preprocessing)}, {manifest.preprocessing.interpolation}"
    precisions = ", ".join(variant.precision for variant in manifest.variants)
    yield f"created   {manifest.created_at:%Y-%m-%d %H:%M} UTC, {count} files, {size:.2f} MB"
    yield f"input     {manifest.input.height}x{manifest.input.width} RGB, {resize}"
    yield f"classes   {classes}: {names}"
    yield f"variants  {precisions}; batches up to {manifest.max_batch_size}"
    yield from _describe_origin(manifest)
    for check in manifest.gate:
        yield _describe_check(check)
    for variant in manifest.variants:
        size = next(entry.size for entry in manifest.files if entry.path == variant.file) / 1e6
        tolerance = f"golden logits within {variant.tolerance:.3g}"
        yield f"{variant.precision:9} {variant.file}, {size:.2f} MB, {tolerance}"
        for check in variant.gate:
            yield f"  {_describe_check(check)}"


def _describe_origin(manifest: Manifest) -> Iterator[str]:
    if origin := manifest.derived_from:
        yield f"derived   from {origin.model}/{origin.version}  {origin.digest}"
    if imported := manifest.imported:
        source = f"{imported.name} ({imported.kind}), sha256 {imported.sha256}"
        yield f"imported  from {source}; {imported.report} says what was guessed"
    if training := manifest.training:
        epochs = f"epoch {training.best_epoch} of {training.epochs}"
        yield f"trained   {training.architecture} on {training.data.name}, {epochs}"
        yield f"command   {training.command}"
    if metrics := manifest.metrics:
        interval = metrics.top1_interval
        range_ = f" (95 % {interval[0]:.2%} to {interval[1]:.2%})" if interval else ""
        yield f"test      top-1 {metrics.top1:.2%}{range_} of {metrics.test_images} images"


def _describe_check(check: Check) -> str:
    verdict = "ok" if check.passed else f"WAIVED: {check.waived}" if check.waived else "FAILED"
    limit = f"{check.comparison.replace('_', ' ')} {check.threshold:g}"
    return f"gate      {check.check:24} {check.value:<12.6g} {limit:20} {verdict}"
