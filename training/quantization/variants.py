"""Makes a variant of a version in another precision, and checks it on the whole test split."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from model_store.errors import ModelRunError
from model_store.golden import load_pixels
from model_store.manifest import Check, Precision
from model_store.preprocessing import Pixels
from model_store.sealed_model import load_density
from model_store.session import NEEDS_CUDA, Logits, Session
from model_store.version import Version
from training.data.sampling import evenly_spaced
from training.errors import QuantizationError
from training.gates.gate import apply_waivers
from training.quantization.checks import (
    INVARIANCE_IMAGES,
    MAX_DRIFT,
    VariantCandidate,
    check_variant,
    golden_expected,
    golden_tolerance,
    top1_loss_points,
)
from training.quantization.defaults import (
    SWEEP_LAYERS,
)
from training.quantization.float16 import convert_to_half
from training.quantization.graph import layers_of
from training.quantization.int8 import CALIBRATION_BATCH, calibrate
from training.quantization.quantized_variant import (
    ChangedLabel,
    QuantizationSettings,
    QuantizedVariant,
)
from training.quantization.scoring import Scorer, open_scorer, score
from training.quantization.sensitivity import (
    SWEEP_IMAGES,
    Sensitivity,
    choose_fp32_layers,
    relative_drift,
    sweep,
)
from training.run.data import RunData
from training.run.inference import run_with_embeddings
from training.steps.density import check_density
from training.steps.evaluate import measure_top_scores

VALIDATION_IMAGES: Final = 1000
_DRIFT_QUANTILE: Final = 0.99
ProgressFactory = Callable[[str], Callable[[int, int], None]]
"""Takes the title of a step, returns its progress callback of (done, total)."""


def make_variant(
    version: Version,
    data: RunData,
    settings: QuantizationSettings,
    waivers: Mapping[str, str],
    progress: ProgressFactory,
) -> QuantizedVariant:
    """Convert the version's fp32 file and run every check on the whole test split.

    Raises QuantizationError if the graph cannot be converted, or cannot run here in the precision.
    """
    precision = settings.precision
    fp32_data = version.read_file(version.variant("fp32").file)
    with open_scorer(version.manifest, on_gpu=precision in NEEDS_CUDA) as scorer:
        fp32_layers: tuple[str, ...] = ()
        sensitivities: tuple[Sensitivity, ...] = ()
        if precision == "int8":
            converted, fp32_layers, sensitivities = _convert_to_int8(
                fp32_data, data, settings, scorer, progress
            )
        elif precision == "fp32":
            raise QuantizationError("--precision must be int8, fp16 or bf16, got fp32")
        else:
            converted = convert_to_half(fp32_data, precision)
        candidate = _run(version, data, precision, scorer, fp32_data, converted, progress)
        sample = np.concatenate(
            list(data.chunks(evenly_spaced(data.split.test, INVARIANCE_IMAGES)))
        )
        max_loss = settings.allowed_loss(len(candidate.labels))
        checks = (
            *check_variant(candidate, scorer, sample, max_loss, waivers),
            *apply_waivers(_check_density(version, data, candidate.session, scorer), waivers),
        )
    fp32_top1, top1 = (
        float((logits.argmax(1) == candidate.labels).mean())
        for logits in (candidate.expected, candidate.logits)
    )
    return QuantizedVariant(
        precision,
        converted,
        candidate.tolerance,
        tuple(map(tuple, candidate.golden_logits.tolist())),
        checks,
        (fp32_top1, top1),
        measure_top_scores(
            candidate.expected, version.manifest.outputs, version.manifest.calibration
        ),
        fp32_layers,
        sensitivities,
        tuple(_changed_labels(candidate, data)),
        tuple(
            block.image
            for block, before, after in zip(
                version.manifest.golden,
                candidate.golden_expected,
                candidate.golden_logits,
                strict=True,
            )
            if before.argmax() != after.argmax()
        ),
    )


def _changed_labels(candidate: VariantCandidate, data: RunData) -> Iterator[ChangedLabel]:
    before, after = candidate.expected.argmax(1), candidate.logits.argmax(1)
    for row in np.flatnonzero(before != after):
        yield ChangedLabel(int(data.split.test[row]), int(before[row]), int(after[row]))


def _check_density(
    version: Version, data: RunData, session: Session, scorer: Scorer
) -> Iterator[Check]:
    """Check that the density, which was fitted to fp32's embeddings, also fits the variant's."""
    density = load_density(version, session.embedding_dims)
    if density is None:
        return
    results = [
        run_with_embeddings(session, chunk, scorer.batch) for chunk in data.chunks(data.split.test)
    ]
    logits, embeddings = (np.concatenate(part) for part in zip(*results, strict=True))
    yield check_density(density, logits, embeddings, fitted_on=len(data.split.validation))


def _run(
    version: Version,
    data: RunData,
    precision: Precision,
    scorer: Scorer,
    fp32_data: bytes,
    converted: bytes,
    progress: ProgressFactory,
) -> VariantCandidate:
    """Run both files on the test split and the golden images."""
    session, fp32_session = _open(scorer, converted, precision), scorer.open(fp32_data)
    test = data.split.test
    expected, logits = (
        score(
            each,
            data.chunks(test),
            len(test),
            progress(f"{name} on the test split"),
            size=scorer.batch,
        )
        for name, each in (("fp32", fp32_session), (precision, session))
    )
    golden, golden_logits = golden_expected(version.manifest), _golden_logits(version, session)
    drifts = [
        float(np.quantile(np.abs(logits - expected).max(1), _DRIFT_QUANTILE)),
        *np.abs(golden_logits - golden).max(1),
    ]
    return VariantCandidate(
        precision,
        converted,
        fp32_data,
        session,
        fp32_session,
        logits,
        expected,
        data.images.labels[test],
        golden_logits,
        golden,
        golden_tolerance(precision, drifts),
    )


def _convert_to_int8(
    fp32_data: bytes,
    data: RunData,
    settings: QuantizationSettings,
    scorer: Scorer,
    progress: ProgressFactory,
) -> tuple[bytes, tuple[str, ...], tuple[Sensitivity, ...]]:
    """Return the INT8 file, the layers kept in fp32, and the sensitivities.

    More layers stay in fp32, worst first, until the result on the validation split is acceptable.
    """
    batches = list(_calibration_batches(data, settings.calibration_images, scorer.batch))
    calibrated = calibrate(fp32_data, batches, progress("calibrating"))
    validation = evenly_spaced(data.split.validation, VALIDATION_IMAGES)
    labels = data.images.labels[validation]
    pixels = list(data.chunks(validation))
    fp32_session = scorer.open(fp32_data)
    expected = score(fp32_session, pixels, size=scorer.batch)
    sensitivities: tuple[Sensitivity, ...] = ()

    def is_acceptable(fp32_layers: Sequence[str]) -> bool:
        session = scorer.open(calibrated.quantize(keep=fp32_layers))
        logits = score(session, pixels, size=scorer.batch)
        loss = top1_loss_points(logits, expected, labels)
        drift = relative_drift(logits, expected)
        return loss <= settings.allowed_loss(len(labels)) and drift <= MAX_DRIFT["int8"]

    def rank_layers() -> Sequence[str]:
        nonlocal sensitivities
        if not sensitivities:
            sample = next(iter(data.chunks(evenly_spaced(validation, SWEEP_IMAGES))))
            logits = score(fp32_session, [sample], size=scorer.batch)
            sensitivities = sweep(
                calibrated, sample, logits, scorer, progress("measuring each layer")
            )
        return [entry.layer for entry in sensitivities]

    is_small = len(layers_of(calibrated.model)) <= SWEEP_LAYERS
    if settings.sweep or (settings.sweep is None and is_small):
        rank_layers()
    fp32_layers = () if settings.sweep is False else choose_fp32_layers(is_acceptable, rank_layers)
    return calibrated.quantize(keep=fp32_layers), fp32_layers, sensitivities


def _open(scorer: Scorer, data: bytes, precision: Precision) -> Session:
    try:
        return scorer.open(data)
    except ModelRunError as error:
        reason = str(error)
        if precision in NEEDS_CUDA and not scorer.uses_gpu:
            reason = f"ONNX Runtime finds no GPU; {error}"
        raise QuantizationError(
            f"{precision} cannot run on this machine, so it cannot be checked: {reason}"
        ) from error


def _calibration_batches(data: RunData, images: int, max_batch: int) -> Iterator[Pixels]:
    """Evenly spaced training images in batches of equal size. An incomplete batch is dropped."""
    chosen = evenly_spaced(data.split.train, images)
    size = min(CALIBRATION_BATCH, max_batch, len(chosen))
    for chunk in data.chunks(chosen):
        for start in range(0, len(chunk) - size + 1, size):
            yield chunk[start : start + size]


def _golden_logits(version: Version, session: Session) -> Logits:
    """Run one image at a time, like the service's check of golden images."""
    logits = [
        session.run(load_pixels(version, golden)[np.newaxis])[0]
        for golden in version.manifest.golden
    ]
    return np.array(logits, np.float32).reshape(-1, len(version.manifest.class_names))
