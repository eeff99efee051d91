"""Gates of preprocessing: accuracy on encoded images, EXIF orientations, and the golden proof."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from model_store.errors import DecodeProofError
from model_store.golden import Prepare, check_decode
from model_store.image_header import open_image
from model_store.manifest import MAX_TOLERANCE, Check, Golden, Preprocessing
from model_store.preprocessing import Pixels, crop, load_pixels, orient, prepare, resize, to_rgb
from model_store.session import Session
from training.data.sampling import evenly_spaced
from training.data.sources import encode
from training.gates.checks import at_least, at_most, logit_tolerance, max_abs
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.steps.evaluate import read_figures, read_logits
from training.steps.golden import read_golden

JPEG_QUALITY: Final = 90
JPEG_ALLOWANCE: Final = 0.01
JPEG_ALLOWED_IMAGES: Final = 3
"""JPEG may lose this many correct answers, or the share JPEG_ALLOWANCE if that is more."""
ENCODED_SAMPLE_SIZE: Final = 1000
STORED_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""The transposition that stores an upright image, by EXIF orientation."""

GoldenImage = tuple[bytes, Pixels, Golden]
"""An encoded image, the pixels that it must decode to, and its entry in the manifest."""


def accuracy_checks(run: Run, data: RunData, session: Session) -> Iterator[Check]:
    """Check accuracy on PNG and JPEG test images, EXIF orientations, and the accuracy floor."""
    test, spec = data.split.test, data.preprocessing
    sample = evenly_spaced(np.arange(len(test)), ENCODED_SAMPLE_SIZE)
    labels = data.images.labels[test[sample]]
    measured = float((read_logits(run)[sample].argmax(1) == labels).mean())
    correct = {"png": 0, "jpeg": 0}
    for index, label in zip(test[sample], labels, strict=True):
        image = _upright_rgb(data.images.encoded[index], spec)
        for kind, encoded in (
            ("png", encode(image, "PNG", compress_level=1)),
            ("jpeg", encode(image, "JPEG", quality=JPEG_QUALITY)),
        ):
            logits = session.run(prepare(encoded, spec)[np.newaxis])[0]
            correct[kind] += int(logits.argmax() == label)
    allowances = {"png": 0.0, "jpeg": max(JPEG_ALLOWANCE, JPEG_ALLOWED_IMAGES / len(sample))}
    for kind, allowance in allowances.items():
        detail = f"top-1 of the export on {len(sample)} test images as {kind.upper()}"
        share = correct[kind] / len(sample)
        yield at_least(f"accuracy_{kind}", share, measured - allowance, detail)
    misread = count_misread_orientations(data, int(test[0]))
    detail = "number of the 8 EXIF orientations that decode to other pixels"
    yield at_most("orientation", misread, 0, detail)
    top1, floor = read_figures(run)["top1"], run.config.recipe.accuracy_floor
    yield at_least("accuracy_floor", top1, floor, "top-1 on the test split")


def count_misread_orientations(data: RunData, index: int) -> int:
    """Return the number of EXIF orientations in which an image does not decode upright."""
    image, spec = _upright_rgb(data.images.encoded[index], data.preprocessing), data.preprocessing
    upright = prepare(encode(image, "PNG"), spec)
    stored = {1: image}
    stored |= {value: image.transpose(method) for value, method in STORED_TRANSPOSES.items()}
    return sum(
        not np.array_equal(prepare(encode(each, "PNG", exif=_orientation(value)), spec), upright)
        for value, each in stored.items()
    )


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif.tobytes()


def _upright_rgb(data: bytes, spec: Preprocessing) -> Image.Image:
    """Do the steps of `prepare` before the resize."""
    image = open_image(data, spec)
    load_pixels(image)
    return to_rgb(orient(image), spec.background)


def golden_checks(run: Run, data: RunData, session: Session) -> Iterator[Check]:
    images = [
        ((run.path / block.image).read_bytes(), _read_pixels(run, block), block)
        for block in read_golden(run)
    ]
    yield from check_golden(images, data.preprocessing, session, golden_tolerance(run))


def golden_tolerance(run: RunDirectory) -> float:
    """Largest allowed difference of a logit from those of the run's golden images."""
    logits = np.array([block.logits for block in read_golden(run)], np.float32)
    return min(logit_tolerance(logits), MAX_TOLERANCE)


def check_golden(
    images: Sequence[GoldenImage], spec: Preprocessing, session: Session, tolerance: float
) -> Iterator[Check]:
    """Check that all golden images reproduce, and that each known fault breaks at least one.

    Args:
        images: The golden images.
        spec: The preprocessing of the version.
        session: A session of the export.
        tolerance: Largest allowed difference of a logit.
    """
    difference = max(
        max_abs(session.run(pixels[np.newaxis])[0] - np.asarray(block.logits, np.float32))
        for _, pixels, block in images
    )
    detail = "max |logit - training's| over the golden images"
    yield at_most("golden_numerics", difference, tolerance, detail)
    undecoded = sum(not _decodes(image, spec, prepare) for image in images)
    yield at_most("golden_decode", undecoded, 0, "golden images that decode to other pixels")
    for fault, faulty_prepare in PREPROCESSING_FAULTS.items():
        noticed = sum(not _decodes(image, spec, faulty_prepare) for image in images)
        detail = f"golden images that fail with {fault.replace('_', ' ')}"
        yield at_least(f"golden_notices_{fault}", noticed, 1, detail)


def _swapped_channels(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec)[:, :, ::-1]


def _ignored_exif(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(image, spec.background), spec), spec)


def _another_interpolation(data: bytes, spec: Preprocessing) -> Pixels:
    other = "bicubic" if spec.interpolation != "bicubic" else "bilinear"
    return prepare(data, spec.model_copy(update={"interpolation": other}))


def _a_shifted_crop(data: bytes, spec: Preprocessing) -> Pixels:
    return crop(resize(_upright_rgb(data, spec), spec), spec, offset=1)


PREPROCESSING_FAULTS: Final[Mapping[str, Prepare]] = {
    "swapped_channels": _swapped_channels,
    "ignored_exif": _ignored_exif,
    "another_interpolation": _another_interpolation,
    "a_shifted_crop": _a_shifted_crop,
}
"""Faulty variants of `prepare`. The golden proof must fail with each of them."""


def _decodes(image: GoldenImage, spec: Preprocessing, prepare_image: Prepare) -> bool:
    encoded, pixels, block = image
    try:
        check_decode(encoded, pixels, block, spec, prepare_image)
    except DecodeProofError:
        return False
    return True


def _read_pixels(run: RunDirectory, block: Golden) -> Pixels:
    path = run.file(block.pixels, "export")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise damaged_file_error(path, error) from None
