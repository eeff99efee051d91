"""The golden proof: checks that a version answers on this machine as it did in training.

- Decode: `prepare` turns each golden image into the stored pixels, within a tolerance.
- Numerics: the session turns the stored pixels into the expected logits, within the variant's
  tolerance. If training's top-1 had a clear margin, the top-1 must be the same.

The expected logits come from training, or from the variant itself when it was published.
"""

import io
import math
from collections.abc import Callable
from typing import Final

import numpy as np

from model_store.errors import DecodeProofError, ImageError, NumericsProofError
from model_store.manifest import Golden, Preprocessing
from model_store.preprocessing import Pixels, prepare
from model_store.session import Logits, Session, probabilities
from model_store.uncertainty import CLEAR_MARGIN, margins
from model_store.version import MAX_GOLDEN_IMAGE_BYTES, Version

MAX_ARRAY_HEADER_BYTES: Final = 4096
_HEADER_READERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
Prepare = Callable[[bytes, Preprocessing], Pixels]


def prove(version: Version, session: Session, precision: str = "fp32") -> None:
    """Run the decode and the numerics proof over all golden images; a version may have none.

    Args:
        version: The opened version.
        session: A session of the variant's file.
        precision: Precision of the variant.

    Raises:
        DecodeProofError: An image does not decode to the stored pixels.
        NumericsProofError: The logits differ.
        VersionCorruptError: A file is not as it was sealed.
        StoreUnreadableError: A file cannot be read.
    """
    for golden in version.manifest.golden:
        prove_decode(version, golden)
    prove_numerics(version, session, precision)


def prove_decode(version: Version, golden: Golden, prepare: Prepare = prepare) -> None:
    """Compare one image's decoded pixels with the stored ones. Raises DecodeProofError."""
    check_decode(
        version.read_file(golden.image, MAX_GOLDEN_IMAGE_BYTES),
        load_pixels(version, golden),
        golden,
        version.manifest.preprocessing,
        prepare,
    )


def check_decode(
    data: bytes, stored: Pixels, golden: Golden, spec: Preprocessing, prepare: Prepare = prepare
) -> None:
    """Compare decoded pixels with stored ones.

    Args:
        data: The encoded image.
        stored: The expected pixels, uint8 `[height, width, 3]`.
        golden: The tolerance, and the name for the message.
        spec: How to prepare the image.
        prepare: The function to check.

    Raises:
        DecodeProofError: The image does not decode, or a difference exceeds the tolerance.
    """
    try:
        decoded = prepare(data, spec)
    except ImageError as error:
        raise DecodeProofError(f"{golden.image} does not decode: {error}") from error
    if decoded.shape != stored.shape:
        raise DecodeProofError(
            f"{golden.image} decodes to {decoded.shape}, expected {stored.shape}"
        )
    difference = np.abs(decoded.astype(np.int16) - stored)
    largest, mean = int(difference.max()), float(difference.mean())
    allowed = golden.decode_tolerance
    if largest > allowed.max_abs or mean > allowed.mean_abs:
        raise DecodeProofError(
            f"{golden.image} decodes to other pixels than in training: they differ by at most "
            f"{largest} and {mean:.3f} on average, allowed are {allowed.max_abs} and "
            f"{allowed.mean_abs}"
        )


def prove_numerics(version: Version, session: Session, precision: str = "fp32") -> None:
    """Compare the logits of all stored pixels with the expected ones, one image per run.

    Raises:
        NumericsProofError: A logit differs by more than the tolerance, or a clear top-1 changes.
        DecodeProofError: The stored pixels are damaged.
        StoreUnreadableError: A file cannot be read.
        ManifestError: The version has no variant of this precision.
    """
    variant = version.variant(precision)
    source = "those of its publication" if variant.golden_logits else "training's"
    for index, golden in enumerate(version.manifest.golden):
        trained = np.asarray(golden.logits, dtype=np.float32)
        expected = (
            np.asarray(variant.golden_logits[index], np.float32)
            if variant.golden_logits
            else trained
        )
        logits = session.run(load_pixels(version, golden)[np.newaxis])[0]
        if logits.shape != trained.shape:
            raise NumericsProofError(
                f"{golden.image}: the {precision} model has {logits.shape[-1]} classes, expected "
                f"{len(trained)}"
            )
        largest = float(np.abs(logits - expected).max())
        if not largest <= variant.tolerance:  # `>` would let NaN pass
            raise NumericsProofError(
                f"{golden.image}: the {precision} logits differ from {source} by {largest:.3g}; "
                f"allowed is {variant.tolerance:.3g}"
            )
        if logits.argmax() != trained.argmax() and _is_clear(version, trained):
            names = version.manifest.class_names
            raise NumericsProofError(
                f"{golden.image}: the {precision} model answers {names[logits.argmax()]!r}, "
                f"expected {names[trained.argmax()]!r}"
            )


def _is_clear(version: Version, logits: Logits) -> bool:
    calibration, outputs = version.manifest.calibration, version.manifest.outputs
    temperature = calibration.temperature if calibration else 1.0
    return bool(margins(probabilities(logits, outputs, temperature)) >= CLEAR_MARGIN)


def load_pixels(version: Version, golden: Golden) -> Pixels:
    """Read the stored pixels of a golden image, uint8 `[height, width, 3]`.

    Raises:
        DecodeProofError: The file is not such an array.
        VersionCorruptError: The file is not as it was sealed.
        StoreUnreadableError: The file cannot be read.
    """
    expected = (version.manifest.input.height, version.manifest.input.width, 3)
    size = math.prod(expected)
    data = version.read_file(golden.pixels, size + MAX_ARRAY_HEADER_BYTES)
    file = io.BytesIO(data)
    try:  # the header is checked first, because NumPy allocates what it states
        read_header = _HEADER_READERS[np.lib.format.read_magic(file)]
        shape, fortran_order, dtype = read_header(file)
    except (KeyError, ValueError) as error:
        raise DecodeProofError(f"{golden.pixels} is not a NumPy array: {error}") from error
    if dtype != np.uint8 or shape != expected:
        raise DecodeProofError(f"{golden.pixels} holds {dtype} {shape}, expected uint8 {expected}")
    values = np.frombuffer(data, np.uint8, offset=file.tell())
    if values.size != size:
        raise DecodeProofError(f"{golden.pixels} holds {values.size} values, expected {size}")
    return values.reshape(expected, order="F" if fortran_order else "C")
