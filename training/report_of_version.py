"""Evaluates a published version, and publishes it again with a report and example images."""

from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from model_store.manifest import Golden, Manifest
from model_store.preprocessing import prepare
from model_store.provenance import Metrics
from model_store.sealed_model import load_variant
from model_store.session import Session
from model_store.store import ModelStore
from model_store.version import Version
from training.derived_version import publish_derived
from training.errors import ExportError
from training.quantization.scoring import MAX_SCORING_BATCH, score
from training.quantization.version_data import is_training_data
from training.reports.evaluation_report import (
    NO_CURVES_OF_IMPORT,
    EvaluatedImages,
    render_evaluation_report,
)
from training.reports.pages import REPORT_FILE
from training.run.data import RunData
from training.run.golden_images import RESERVED_STEMS
from training.steps.evaluate import measure
from training.steps.golden import SAMPLE_PREFIX, make_golden_block, sample_probes, to_npy
from training.steps.publish import Published


def publish_with_report(
    version: Version,
    data: RunData,
    store: ModelStore,
    examples: int,
    progress: Callable[[int, int], None] = lambda *_: None,
    *,
    promote: bool,
) -> tuple[Published, Metrics]:
    """Evaluate the version on the test split, and publish it with the report and the metrics.

    Args:
        version: The version.
        data: Labelled images.
        store: Where to publish.
        examples: How many test images replace the sample images of the golden proof, one per
            class; 0 keeps the sample images of the version.
        progress: Called with (images done, images in total).
        promote: Whether `production` may move.

    Raises:
        ExportError: The version has a report already, or `examples` is not 0 and variants in
            other precisions have golden logits for the old sample images only.
        PublishError: If `promote` is False but the new version would be served anyway.
    """
    manifest, test = version.manifest, data.split.test
    if manifest.report_file:
        raise ExportError(f"{version} already has a report; nothing to do")
    if examples and len(manifest.variants) > 1:
        raise ExportError(
            f"{version} has variants in other precisions, which would lack the logits of the new "
            "examples. Add the report to the version that they were converted from and convert "
            "that again, or give --examples 0"
        )
    session = load_variant(version, version.variant("fp32"))
    batch = min(MAX_SCORING_BATCH, manifest.max_batch_size)
    scores = score(session, data.chunks(test), len(test), progress, size=batch)
    evaluated = EvaluatedImages(data.images, test, scores, manifest.outputs, data.chunks)
    metrics = measure(scores, evaluated.labels, manifest.outputs, manifest.calibration).model_copy(
        update={"report": REPORT_FILE}
    )
    golden, files = _with_examples(version, session, data, examples)
    files[REPORT_FILE] = _render(version, data, evaluated, metrics)
    published = publish_derived(
        version,
        store,
        {"metrics": metrics, "golden": golden},
        files,
        why=f"{version} with a report",
        promote=promote,
    )
    return published, metrics


def _with_examples(
    version: Version, session: Session, data: RunData, examples: int
) -> tuple[tuple[Golden, ...], dict[str, bytes]]:
    """Replace the sample images of the golden proof; return all its images and the files."""
    golden = version.manifest.golden
    files = {entry.path: version.read_file(entry.path) for entry in version.manifest.files}
    if not examples:
        return golden, files
    from_user: list[Golden] = []
    samples: list[Golden] = []
    synthetic: list[Golden] = []
    for block in golden:
        stem = PurePosixPath(block.image).stem
        if stem.startswith(SAMPLE_PREFIX):
            del files[block.image], files[block.pixels]
        else:
            (synthetic if stem in RESERVED_STEMS else from_user).append(block)
    for probe in sample_probes(data, "test", examples):
        pixels = prepare(probe.encoded, version.manifest.preprocessing)
        block = make_golden_block(probe, session.run(pixels[np.newaxis])[0])
        files |= {block.image: probe.encoded, block.pixels: to_npy(pixels)}
        samples.append(block)
    return (*from_user, *samples, *synthetic), files


def _render(version: Version, data: RunData, evaluated: EvaluatedImages, metrics: Metrics) -> bytes:
    manifest = version.manifest
    return render_evaluation_report(
        version.model,
        evaluated,
        metrics,
        origin=_describe_origin(manifest),
        no_curves=NO_CURVES_OF_IMPORT
        if manifest.imported
        else "The run was not kept, so there are no training curves.",
        data_facts=_describe_data(version, data),
        calibration=manifest.calibration,
        density=manifest.density,
    )


def _describe_origin(manifest: Manifest) -> str:
    classes = len(manifest.class_names)
    if training := manifest.training:
        images = training.data.split.get("train")
        count = f"{images:,} images in " if images else ""
        return (
            f"{training.architecture}, trained on {training.data.name}: {count}{classes:,} "
            f"classes, seed {training.seed}."
        )
    name = f"{manifest.imported.name}, imported," if manifest.imported else "A network"
    return f"{name} with {classes:,} classes."


def _describe_data(version: Version, data: RunData) -> dict[str, str]:
    """The facts of the data: those in the manifest, if it is the training data."""
    training = version.manifest.training
    known = training.data if training and is_training_data(version, data) else data.images
    facts = {
        "data": known.name,
        "source": known.source,
        "licence": known.licence,
        "test images": f"{len(data.split.test):,}",
        "digest (sha256)": data.digest,
    }
    return {name: value for name, value in facts.items() if value}
