"""A version in another precision: converted, held against fp32 on the whole test split, and published as the next version."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from model_store.aliases import PRODUCTION
from model_store.errors import AliasError, ModelRunError
from model_store.golden import load_pixels
from model_store.manifest import Check, Precision, Variant, now
from model_store.preprocessing import Pixels
from model_store.provenance import VersionReference
from model_store.session import NEEDS_CUDA, Logits, Session
from model_store.store import ModelStore
from model_store.version import Version
from training.data.sampling import evenly_spaced
from training.errors import QuantizationError
from training.quantization.checks import (
    DRIFT,
    FEW_IMAGES,
    INVARIANCE_IMAGES,
    MAX_LOSS,
    Candidate,
    check_candidate,
    golden_expected,
    lost_points,
    tolerance_of,
)
from training.quantization.float16 import convert
from training.quantization.graph import layers_of
from training.quantization.int8 import CALIBRATION_BATCH, calibrate
from training.quantization.scoring import Scorer, score, scorer
from training.quantization.sensitivity import (
    SWEEP_IMAGES,
    Sensitivity,
    layers_to_keep,
    relative_drift,
    sweep,
)
from training.run.data import RunData
from training.steps.publish import Published, pin_serving_version, require_promotable

CALIBRATION_IMAGES: Final = 512
VALIDATION_IMAGES: Final = 1000
SWEEP_LAYERS: Final = 40
_DRIFT_QUANTILE: Final = 0.99
Count = Callable[[str], Callable[[int, int], None]]


@dataclass(frozen=True)
class Settings:
    """What a person may ask for. `max_loss` is in points of top-1, None 0.5 or two images; `sweep` None is up to 40 layers."""

    precision: Precision = "int8"
    max_loss: float | None = None
    calibration_images: int = CALIBRATION_IMAGES
    sweep: bool | None = None

    def allowed_loss(self, images: int) -> float:
        """Points of top-1 that may be lost on so many images."""
        return max(MAX_LOSS, 100 * FEW_IMAGES / images) if self.max_loss is None else self.max_loss


@dataclass(frozen=True)
class Made:
    """A variant that was made and gated. `kept` are the layers left in fp32; `sensitivities` are empty where none were measured."""

    precision: Precision
    data: bytes
    tolerance: float
    golden_logits: tuple[tuple[float, ...], ...]
    """What the file gave here for each golden image."""
    checks: tuple[Check, ...]
    top1: tuple[float, float]
    """fp32's and the variant's share of right answers on the test split."""
    kept: tuple[str, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()


def make_variant(
    version: Version, data: RunData, settings: Settings, waivers: Mapping[str, str], count: Count
) -> Made:
    """Convert the version's fp32 file and run every check on the whole test split.

    Raises QuantizationError where the version has no fp32 file, or the other precision can not be computed here.
    """
    fp32_data = version.path(version.variant("fp32").file).read_bytes()
    with scorer(version.manifest, on_gpu=settings.precision in NEEDS_CUDA) as scoring:
        fp32_session = scoring.open(fp32_data)
        kept: tuple[str, ...] = ()
        sensitivities: tuple[Sensitivity, ...] = ()
        if settings.precision == "int8":
            converted, kept, sensitivities = _to_int8(fp32_data, data, settings, scoring, count)
        elif settings.precision == "fp32":
            raise QuantizationError(
                "every version has fp32 already; --precision takes int8, fp16 or bf16"
            )
        else:
            converted = convert(fp32_data, settings.precision)
        session = _open(scoring, converted, settings.precision)
        test = data.split.test
        expected = score(
            fp32_session,
            data.chunks(test),
            len(test),
            count("fp32 on the test split"),
            size=scoring.batch,
        )
        logits = score(
            session,
            data.chunks(test),
            len(test),
            count(f"{settings.precision} on the test split"),
            size=scoring.batch,
        )
        golden, golden_logits = golden_expected(version.manifest), _golden_logits(version, session)
        drifts = [
            float(np.quantile(np.abs(logits - expected).max(1), _DRIFT_QUANTILE)),
            *np.abs(golden_logits - golden).max(1),
        ]
        candidate = Candidate(
            settings.precision,
            converted,
            fp32_data,
            session,
            fp32_session,
            logits,
            expected,
            data.images.labels[test],
            golden_logits,
            golden,
            tolerance_of(settings.precision, drifts),
        )
        sample = np.concatenate(list(data.chunks(evenly_spaced(test, INVARIANCE_IMAGES))))
        checks = check_candidate(
            candidate, scoring, sample, settings.allowed_loss(len(test)), waivers
        )
    top1 = tuple(
        float((scores.argmax(1) == candidate.labels).mean()) for scores in (expected, logits)
    )
    own = tuple(map(tuple, golden_logits.tolist()))
    return Made(
        settings.precision,
        converted,
        candidate.tolerance,
        own,
        checks,
        (top1[0], top1[1]),
        kept,
        sensitivities,
    )


def publish_variant(
    version: Version, made: Made, store: ModelStore, *, promote: bool = True
) -> Published:
    """Seal the version's files with the variant as the model's next version; everything else is carried over.

    `production` follows where it pointed to this version, or to none, and every check passed unwaived: another precision of an
    older version is no reason to roll back to it. Raises PublishError where `promote` is False and it would serve all the same.
    """
    model, manifest = version.model, version.manifest
    file = f"model.{made.precision}.onnx"
    others = tuple(variant for variant in manifest.variants if variant.precision != made.precision)
    dropped = {variant.file for variant in manifest.variants} - {variant.file for variant in others}
    files: dict[str, bytes] = {
        entry.path: version.path(entry.path).read_bytes()
        for entry in manifest.files
        if entry.path not in dropped
    }
    files[file] = made.data
    variant = Variant(
        precision=made.precision,
        file=file,
        tolerance=made.tolerance,
        golden_logits=made.golden_logits,
        gate=made.checks,
    )
    fields: dict[str, Any] = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    del fields["files"], fields["model"]
    fields |= {
        "created_at": now(),
        "derived_from": VersionReference(
            model=model, version=version.number, digest=version.digest
        ),
        "variants": (*others, variant),
        "signature": None,  # it vouched for another manifest
    }
    if not promote:
        require_promotable(store, model)
    passed = all(check.passed for check in (*manifest.gate, *made.checks))
    follows = (
        promote
        and passed
        and _production(store, model) in {None, version.number}
        and manifest.proof == "proven"
    )
    if not follows:
        pin_serving_version(store, model)
    number = store.publish(model, fields, files)
    if follows:
        store.promote(model, number, why=f"{made.precision} of {version}")
    return Published(number, promoted=store.aliases(model).version(PRODUCTION) == number)


def _production(store: ModelStore, model: str) -> int | None:
    """What `production` points to; of a model without that alias its newest version, which counts in its place."""
    try:
        aliased = store.aliases(model).version(PRODUCTION)
    except AliasError:
        return None
    return store.versions(model)[-1] if aliased is None else aliased


def _to_int8(
    fp32_data: bytes, data: RunData, settings: Settings, scoring: Scorer, count: Count
) -> tuple[bytes, tuple[str, ...], tuple[Sensitivity, ...]]:
    """The INT8 file, with those layers in fp32 without which the loss would not hold on the validation split."""
    calibrated = calibrate(
        fp32_data,
        list(_calibration_batches(data, settings.calibration_images, scoring.batch)),
        count("calibrating"),
    )
    validation = evenly_spaced(data.split.validation, VALIDATION_IMAGES)
    labels = data.images.labels[validation]
    pixels = list(data.chunks(validation))
    fp32_session = scoring.open(fp32_data)
    expected = score(fp32_session, pixels, size=scoring.batch)

    def holds(kept: Sequence[str]) -> bool:
        logits = score(scoring.open(calibrated.quantize(keep=kept)), pixels, size=scoring.batch)
        return (
            lost_points(logits, expected, labels) <= settings.allowed_loss(len(labels))
            and relative_drift(logits, expected) <= DRIFT["int8"]
        )

    few = next(iter(data.chunks(evenly_spaced(validation, SWEEP_IMAGES))))
    sensitivities: tuple[Sensitivity, ...] = ()

    def measure() -> tuple[Sensitivity, ...]:
        return sweep(
            calibrated,
            few,
            score(fp32_session, [few], size=scoring.batch),
            scoring,
            count("trying each layer"),
        )

    if settings.sweep or (
        settings.sweep is None and len(layers_of(calibrated.model)) <= SWEEP_LAYERS
    ):
        sensitivities = measure()

    def ranked() -> Sequence[str]:
        nonlocal sensitivities
        sensitivities = sensitivities or measure()
        return [line.layer for line in sensitivities]

    kept = () if settings.sweep is False else layers_to_keep(holds, ranked)
    return calibrated.quantize(keep=kept), kept, sensitivities


def _open(scoring: Scorer, data: bytes, precision: Precision) -> Session:
    try:
        return scoring.open(data)
    except ModelRunError as error:
        where = (
            "this machine has no GPU that ONNX Runtime can use; "
            if precision in NEEDS_CUDA and not scoring.uses_gpu
            else ""
        )
        raise QuantizationError(
            f"{precision} can not be computed here, so it can not be gated: {where}{error}"
        ) from error


def _calibration_batches(data: RunData, images: int, most: int) -> Iterator[Pixels]:
    """Training images, evenly spread, in batches of one size: a short last one is left out."""
    chosen = evenly_spaced(data.split.train, images)
    size = min(CALIBRATION_BATCH, most, len(chosen))
    for chunk in data.chunks(chosen):
        for start in range(0, len(chunk) - size + 1, size):
            yield chunk[start : start + size]


def _golden_logits(version: Version, session: Session) -> Logits:
    """One image at a time, as the golden proof runs them."""
    logits = [
        session.run(load_pixels(version, golden)[np.newaxis])[0]
        for golden in version.manifest.golden
    ]
    return np.array(logits, np.float32).reshape(-1, len(version.manifest.class_names))


@contextmanager
def opened_source(store: ModelStore, reference: str) -> Iterator[Version]:
    """The version to convert. Raises QuantizationError where it has no fp32 file."""
    model, _, number = reference.partition("/")
    with store.open(model, store.resolve(model, number or None)) as version:
        if all(variant.precision != "fp32" for variant in version.manifest.variants):
            raise QuantizationError(f"{version} has no fp32 file to convert")
        yield version
