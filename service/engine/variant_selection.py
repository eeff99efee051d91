"""Which of a version's variants serves: as set, or the fastest of those that hold here."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from model_store import golden
from model_store.errors import ModelStoreError
from model_store.manifest import Precision, Variant
from model_store.preprocessing import Pixels
from model_store.providers import CUDA
from model_store.session import NEEDS_CUDA, Session, SessionOptions
from model_store.speed import Seconds, batches_up_to, speed_up, time_in_turn
from model_store.version import Version

RequestedPrecision = Literal["auto", "fp32", "int8", "fp16", "bf16"]
AT_LEAST: Final = 1.05  # times the base's speed: for less nobody gives up fp32's answers
BUDGET_SECONDS: Final = 0.2
ROUNDS: Final = 12
Measure = Callable[[Mapping[str, Session], Version], Mapping[str, Seconds]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectedVariant:
    """The session that serves, its precision, and what was found of the others.

    `note` says why it is not the precision that was wished for, `left_out` why variants can not serve. `milliseconds` are
    the least of a batch of 1 and of 8, by precision.
    """

    precision: Precision
    session: Session
    note: str | None = None
    left_out: Mapping[Precision, str] = field(default_factory=dict)
    milliseconds: Mapping[Precision, tuple[float, ...]] = field(default_factory=dict)


def choose(
    version: Version,
    wish: RequestedPrecision,
    options: SessionOptions,
    measure: Measure | None = None,
) -> SelectedVariant:
    """The variant to serve, loaded and proven. `auto` is the fastest; a named one that can not serve gives way to fp32.

    fp32 (or the first variant of a version without it) must hold whatever is wished. Raises ModelStoreError where it does not.
    """
    base = _base(version)
    for image in version.manifest.golden:
        golden.prove_decode(version, image)
    sessions: dict[Precision, Session] = {base.precision: load_proven(version, base, options)}
    left_out: dict[Precision, str] = {}
    for variant in version.manifest.variants:
        if variant.precision == base.precision or wish not in {"auto", variant.precision}:
            continue
        if reason := _unusable(variant, options):
            left_out[variant.precision] = reason
            continue
        try:
            sessions[variant.precision] = load_proven(version, variant, options)
        except ModelStoreError as error:
            left_out[variant.precision] = str(error)
            logger.warning("%s is not served in %s: %s", version, variant.precision, error)
    if wish in sessions:
        return SelectedVariant(wish, sessions[wish], left_out=left_out)
    if wish != "auto":
        note = left_out.get(wish, f"this version has no {wish} variant")
        logger.warning("%s is served in %s instead of %s: %s", version, base.precision, wish, note)
        return SelectedVariant(base.precision, sessions[base.precision], note, left_out)
    if len(sessions) == 1:
        return SelectedVariant(base.precision, sessions[base.precision], left_out=left_out)
    seconds = (measure or _measure)(
        {str(name): session for name, session in sessions.items()}, version
    )
    chosen = fastest(seconds, base.precision)
    milliseconds = {
        name: tuple((1e3 * seconds[name].min(axis=0)).round(3).tolist()) for name in sessions
    }
    logger.info(
        "%s is served in %s; ms of a batch of 1 and of 8: %s",
        version,
        chosen,
        _written(milliseconds),
    )
    return SelectedVariant(chosen, sessions[chosen], left_out=left_out, milliseconds=milliseconds)


def fastest(seconds: Mapping[str, Seconds], base: Precision) -> Precision:
    """The precision of the least time; the base's where none is at least 5 % faster."""
    gains = {name: speed_up(seconds[base], taken) for name, taken in seconds.items()}
    best = max(gains, key=lambda name: gains[name])
    return best if gains[best] >= AT_LEAST else base  # type: ignore[return-value]  # the keys are precisions


def _base(version: Version) -> Variant:
    variants = version.manifest.variants
    return next((variant for variant in variants if variant.precision == "fp32"), variants[0])


def _unusable(variant: Variant, options: SessionOptions) -> str | None:
    """Why a variant is not to be tried here, if it is not."""
    if failed := [check.check for check in variant.gate if not check.passed and not check.waived]:
        return f"its gate {', '.join(failed)} failed"
    if variant.precision in NEEDS_CUDA and CUDA not in options.providers:
        return "it needs a GPU"
    return None


def load_proven(version: Version, variant: Variant, options: SessionOptions) -> Session:
    """A session of a verified version's variant that gives its golden logits. Raises ModelRunError, NumericsProofError."""
    manifest = version.manifest
    session = Session(
        version.path(variant.file),
        manifest.input,
        manifest.outputs,
        options,
        _digest(version, variant),
    )
    golden.prove_numerics(version, session, variant.precision)
    return session


def _digest(version: Version, variant: Variant) -> str:
    """Of the variant's file, and of the others of its version: a graph may have its weights in a file of their own."""
    sealed = sorted(f"{entry.path} {entry.sha256}" for entry in version.manifest.files)
    return hashlib.sha256("\n".join([variant.file, *sealed]).encode()).hexdigest()


def _measure(sessions: Mapping[str, Session], version: Version) -> Mapping[str, Seconds]:
    runs: dict[str, Callable[[Pixels], np.ndarray]] = {
        name: session.run for name, session in sessions.items()
    }
    manifest = version.manifest
    batches = batches_up_to(manifest.max_batch_size)
    return time_in_turn(
        runs, manifest.input, rounds=ROUNDS, budget_seconds=BUDGET_SECONDS, batches=batches
    )


def _written(milliseconds: Mapping[Precision, tuple[float, ...]]) -> str:
    return ", ".join(
        f"{name} {' and '.join(f'{value:.2f}' for value in values)}"
        for name, values in milliseconds.items()
    )
