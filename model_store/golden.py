"""The golden proof: this version, on this machine, answers as it did in training.

Two halves that fail with different words. *Decode*: a stored image through the real `prepare` gives the stored pixels.
*Numerics*: the stored pixels through the real session give training's logits, or those that the variant gave when it was gated,
within the variant's tolerance; and wherever training's answer was clear they give the same top-1.
"""

from collections.abc import Callable

import numpy as np

from model_store.errors import (
    DecodeProofError,
    ImageError,
    NumericsProofError,
    StoreUnreadableError,
)
from model_store.manifest import Golden, Preprocessing
from model_store.preprocessing import Pixels, prepare
from model_store.session import Logits, Session, probabilities
from model_store.uncertainty import CLEAR_MARGIN, margins
from model_store.version import Version

Prepare = Callable[[bytes, Preprocessing], Pixels]


def prove(version: Version, session: Session, precision: str = "fp32") -> None:
    """Run both halves over all golden images. Raises DecodeProofError or NumericsProofError; an unproven version may have none."""
    for golden in version.manifest.golden:
        prove_decode(version, golden)
    prove_numerics(version, session, precision)


def prove_decode(version: Version, golden: Golden, prepare: Prepare = prepare) -> None:
    """Hold one image's decoded pixels against the stored ones. Raises DecodeProofError."""
    check_decode(
        version.path(golden.image).read_bytes(),
        load_pixels(version, golden),
        golden,
        version.manifest.preprocessing,
        prepare,
    )


def check_decode(
    data: bytes, stored: Pixels, golden: Golden, spec: Preprocessing, prepare: Prepare = prepare
) -> None:
    """The decode half on bytes and pixels at hand. Raises DecodeProofError."""
    try:
        decoded = prepare(data, spec)
    except ImageError as error:
        raise DecodeProofError(f"{golden.image} does not decode here: {error}") from error
    if decoded.shape != stored.shape:
        raise DecodeProofError(
            f"{golden.image} decodes to {decoded.shape}, training saw {stored.shape}"
        )
    difference = np.abs(decoded.astype(np.int16) - stored)
    largest, mean = int(difference.max()), float(difference.mean())
    allowed = golden.decode_tolerance
    if largest > allowed.max_abs or mean > allowed.mean_abs:
        raise DecodeProofError(
            f"{golden.image} decodes to other pixels than in training: off by at most {largest} and {mean:.3f} in the mean, "
            f"allowed are {allowed.max_abs} and {allowed.mean_abs}"
        )


def prove_numerics(version: Version, session: Session, precision: str = "fp32") -> None:
    """Hold the logits of all stored pixels against the expected ones, one image at a time as a lone client's would run.

    Raises NumericsProofError.
    """
    variant = version.variant(precision)
    whose = "those of its gates" if variant.golden_logits else "training's"
    for place, golden in enumerate(version.manifest.golden):
        trained = np.asarray(golden.logits, dtype=np.float32)
        expected = (
            np.asarray(variant.golden_logits[place], np.float32)
            if variant.golden_logits
            else trained
        )
        logits = session.run(load_pixels(version, golden)[np.newaxis])[0]
        if logits.shape != trained.shape:
            raise NumericsProofError(
                f"{golden.image}: the {precision} model has {logits.shape[-1]} classes, training had {len(trained)}"
            )
        largest = float(np.abs(logits - expected).max())
        if not largest <= variant.tolerance:  # so written that NaN fails
            raise NumericsProofError(
                f"{golden.image}: the {precision} logits differ from {whose} by {largest:.3g}, allowed is {variant.tolerance:.3g}"
            )
        if logits.argmax() != trained.argmax() and _is_clear(version, trained):
            found, clear = (
                version.manifest.class_names[scores.argmax()] for scores in (logits, trained)
            )
            raise NumericsProofError(
                f"{golden.image}: the {precision} model answers {found!r}, training's clear answer was {clear!r}"
            )


def _is_clear(version: Version, logits: Logits) -> bool:
    calibration, outputs = version.manifest.calibration, version.manifest.outputs
    certain = probabilities(logits, outputs, calibration.temperature if calibration else 1.0)
    return bool(margins(certain) >= CLEAR_MARGIN)


def load_pixels(version: Version, golden: Golden) -> Pixels:
    """The stored pixels of a golden image, uint8 `[height, width, 3]`.

    Raises DecodeProofError where the file is no such array, StoreUnreadableError where it can not be read.
    """
    try:
        with open(version.path(golden.pixels), "rb") as file:
            pixels = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise StoreUnreadableError(
            f"{version}: {golden.pixels} can not be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise DecodeProofError(f"{golden.pixels} is not a stored array: {error}") from error
    expected = (version.manifest.input.height, version.manifest.input.width, 3)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise DecodeProofError(
            f"{golden.pixels} holds {pixels.dtype} {pixels.shape}, expected uint8 {expected}"
        )
    return np.asarray(pixels)
