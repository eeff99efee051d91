"""Selects the variant to serve: the requested one, or the fastest that passes its proof."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from model_store import golden
from model_store.errors import ModelStoreError
from model_store.manifest import Precision, Variant
from model_store.preprocessing import Pixels
from model_store.providers import CUDA
from model_store.sealed_model import load_variant
from model_store.session import NEEDS_CUDA, Session, SessionOptions
from model_store.timing import Clock, Seconds, speedup, time_alternately, timed_batch_sizes
from model_store.version import Version
from service.settings import RequestedPrecision

MIN_SPEED_UP: Final = 1.05
"""A variant must be this many times as fast as fp32 to justify its slightly different results."""
TIMING_SECONDS: Final = 0.2
TIMING_ROUNDS: Final = 12
MeasureVariants = Callable[[Mapping[str, Session], Version], Mapping[str, Seconds]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectedVariant:
    """The variant that serves.

    Attributes:
        precision: Its precision.
        session: Its session.
        note: Why it is not the requested precision; None if it is.
        left_out: Why other variants cannot serve, by precision.
        milliseconds: The fastest run of each timed batch size (1 and 8), by precision.
    """

    precision: Precision
    session: Session
    note: str | None = None
    left_out: Mapping[Precision, str] = field(default_factory=dict)
    milliseconds: Mapping[Precision, tuple[float, ...]] = field(default_factory=dict)


def select_variant(
    version: Version,
    requested: RequestedPrecision,
    options: SessionOptions,
    measure: MeasureVariants | None = None,
) -> SelectedVariant:
    """Select, load and prove the variant to serve.

    `auto` selects the fastest variant. A named variant that cannot serve is replaced by fp32, or by
    the first variant of a version without fp32.

    Raises:
        ModelStoreError: fp32, or the first variant without fp32, cannot be loaded or proven.
    """
    base = _base_variant(version)
    for image in version.manifest.golden:
        golden.prove_decode(version, image)
    sessions: dict[Precision, Session] = {base.precision: load_proven(version, base, options)}
    left_out: dict[Precision, str] = {}
    for variant in version.manifest.variants:
        if variant.precision == base.precision or requested not in {"auto", variant.precision}:
            continue
        if reason := _reason_not_to_try(variant, options):
            left_out[variant.precision] = reason
            continue
        try:
            sessions[variant.precision] = load_proven(version, variant, options)
        except ModelStoreError as error:
            left_out[variant.precision] = str(error)
            logger.warning(
                "variant not usable version=%s precision=%s reason=%s",
                version,
                variant.precision,
                error,
            )
    if requested in sessions:
        return SelectedVariant(requested, sessions[requested], left_out=left_out)
    if requested != "auto":
        note = left_out.get(requested, f"this version has no {requested} variant")
        logger.warning(
            "precision replaced version=%s precision=%s requested=%s reason=%s",
            version,
            base.precision,
            requested,
            note,
        )
        return SelectedVariant(base.precision, sessions[base.precision], note, left_out)
    if len(sessions) == 1:
        return SelectedVariant(base.precision, sessions[base.precision], left_out=left_out)
    return _select_fastest(version, base.precision, sessions, left_out, measure or measure_variants)


def _select_fastest(
    version: Version,
    base: Precision,
    sessions: Mapping[Precision, Session],
    left_out: Mapping[Precision, str],
    measure: MeasureVariants,
) -> SelectedVariant:
    seconds = measure({str(name): session for name, session in sessions.items()}, version)
    selected = fastest_precision(seconds, base)
    milliseconds = {
        name: tuple((1e3 * seconds[name].min(axis=0)).round(3).tolist()) for name in sessions
    }
    logger.info(
        "variant selected version=%s precision=%s %s",
        version,
        selected,
        " ".join(
            f"{name}_ms={','.join(f'{value:.2f}' for value in values)}"
            for name, values in milliseconds.items()
        ),
    )
    return SelectedVariant(selected, sessions[selected], None, left_out, milliseconds)


def fastest_precision(seconds: Mapping[str, Seconds], base: Precision) -> Precision:
    """The fastest precision, or `base` if none is at least `MIN_SPEED_UP` times as fast."""
    gains = {name: speedup(seconds[base], measured) for name, measured in seconds.items()}
    best = max(gains, key=lambda name: gains[name])
    # The keys are precisions.
    return best if gains[best] >= MIN_SPEED_UP else base  # type: ignore[return-value]


def _base_variant(version: Version) -> Variant:
    variants = version.manifest.variants
    return next((variant for variant in variants if variant.precision == "fp32"), variants[0])


def _reason_not_to_try(variant: Variant, options: SessionOptions) -> str | None:
    if failed := [check.check for check in variant.gate if not check.passed and not check.waived]:
        return f"its gate {', '.join(failed)} failed"
    if variant.precision in NEEDS_CUDA and CUDA not in options.providers:
        return "it needs a GPU"
    return None


def load_proven(version: Version, variant: Variant, options: SessionOptions) -> Session:
    """Load a variant of a verified version and compare its logits with the golden logits.

    Raises:
        ModelRunError: The variant cannot be loaded or run.
        NumericsProofError: Its logits differ from the golden logits.
    """
    session = load_variant(version, variant, options)
    golden.prove_numerics(version, session, variant.precision)
    return session


def measure_variants(
    sessions: Mapping[str, Session], version: Version, clock: Clock = time.perf_counter
) -> Mapping[str, Seconds]:
    """Time the sessions of all variants with `clock`."""
    runs: dict[str, Callable[[Pixels], np.ndarray]] = {
        name: session.run for name, session in sessions.items()
    }
    manifest = version.manifest
    batches = timed_batch_sizes(manifest.max_batch_size)
    return time_alternately(
        runs,
        manifest.input,
        rounds=TIMING_ROUNDS,
        budget_seconds=TIMING_SECONDS,
        batch_sizes=batches,
        clock=clock,
    )
