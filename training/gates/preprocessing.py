"""Gates of preprocessing: the export on encoded images, and golden images that notice each way to get it wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from PIL import ExifTags, Image

from model_store.errors import DecodeProofError
from model_store.golden import Prepare, check_decode
from model_store.manifest import Check, Golden, Preprocessing
from model_store.preprocessing import (
    Pixels,
    crop,
    load_pixels,
    open_image,
    orient,
    prepare,
    resize,
    to_rgb,
)
from model_store.session import Session
from training.data.sampling import evenly_spaced
from training.data.sources import encode
from training.gates.checks import LOGIT_TOLERANCE, at_least, at_most, max_abs
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.steps.evaluate import evaluate, read_logits
from training.steps.golden import read_golden

JPEG_QUALITY: Final = 90
JPEG_ALLOWANCE: Final = 0.01
JPEG_ALLOWED_IMAGES: Final = (
    3  # so many may change of few images: of 60, one is more than a point, and says nothing
)
STORED_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image lies in a file of each EXIF orientation."""
ENCODED_SAMPLE_SIZE: Final = 1000  # test images that are encoded anew, evenly spread


def accuracy_checks(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """The exported file, on encoded images through the store's preprocessing, is as good as the network that was measured."""
    test = data.split.test
    sample = evenly_spaced(np.arange(len(test)), ENCODED_SAMPLE_SIZE)
    labels = data.images.labels[test[sample]]
    measured = float((read_logits(run)[sample].argmax(1) == labels).mean())
    spec = data.preprocessing
    right = {"png": 0, "jpeg": 0}
    for index, label in zip(test[sample], labels, strict=True):
        image = _as_seen(data.images.encoded[index], spec)
        for kind, encoded in (
            ("png", encode(image, "PNG", compress_level=1)),
            ("jpeg", encode(image, "JPEG", quality=JPEG_QUALITY)),
        ):
            right[kind] += int(session.run(prepare(encoded, spec)[np.newaxis])[0].argmax() == label)
    for kind, allowance in (
        ("png", 0.0),
        ("jpeg", max(JPEG_ALLOWANCE, JPEG_ALLOWED_IMAGES / len(sample))),
    ):
        detail = (
            f"top-1 of the export on {kind.upper()} bytes, {len(sample)} images of the test split"
        )
        yield at_least(f"accuracy_{kind}", right[kind] / len(sample), measured - allowance, detail)
    yield at_most(
        "orientation",
        _misread_orientations(data, int(test[0])),
        0,
        "of 8 EXIF orientations, those that give other pixels",
    )
    yield at_least(
        "accuracy_floor",
        evaluate(run, data)["top1"],
        run.config().recipe.accuracy_floor,
        "top-1 on the test split",
    )


def _misread_orientations(data: RunData, index: int) -> int:
    """In how many of the EXIF orientations a test image, stored so that it is upright again, is not the upright one."""
    image, spec = _as_seen(data.images.encoded[index], data.preprocessing), data.preprocessing
    upright = prepare(encode(image, "PNG"), spec)
    turned = [
        (1, image),
        *(
            (orientation, image.transpose(method))
            for orientation, method in STORED_TRANSPOSES.items()
        ),
    ]
    return sum(
        not np.array_equal(prepare(encode(stored, "PNG", exif=_orientation(value)), spec), upright)
        for value, stored in turned
    )


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif.tobytes()


def _as_seen(data: bytes, spec: Preprocessing) -> Image.Image:
    """The whole image upright and in RGB, as it is before the resize."""
    image = open_image(data, spec)
    load_pixels(image)
    return to_rgb(orient(image), spec.background)


GoldenImage = tuple[bytes, Pixels, Golden]
"""An encoded image, the pixels that it decodes to, and its block."""


def golden_checks(run: RunDirectory, data: RunData, session: Session) -> Iterator[Check]:
    """The run's golden images, as `check_golden` has it."""
    images = [
        ((run.path / block.image).read_bytes(), _pixels(run, block), block)
        for block in read_golden(run)
    ]
    yield from check_golden(images, data.preprocessing, session, LOGIT_TOLERANCE)


def check_golden(
    images: Sequence[GoldenImage], spec: Preprocessing, session: Session, tolerance: float
) -> Iterator[Check]:
    """The golden images hold here, and would notice each way in which preprocessing is known to go wrong."""
    drift = max(
        max_abs(session.run(pixels[np.newaxis])[0] - np.asarray(block.logits, np.float32))
        for _, pixels, block in images
    )
    yield at_most(
        "golden_numerics", drift, tolerance, "max |logit - training's| over the golden images"
    )
    undecoded = sum(not _decodes(image, spec, prepare) for image in images)
    yield at_most("golden_decode", undecoded, 0, "golden images that decode to other pixels")
    for fault, faulty in PREPROCESSING_FAULTS.items():
        noticed = sum(not _decodes(image, spec, faulty) for image in images)
        yield at_least(
            f"golden_notices_{fault}",
            noticed,
            1,
            f"golden images that fail with {fault.replace('_', ' ')}",
        )


def _swapped_channels(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(data, spec)[:, :, ::-1]


def _ignored_exif(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(image, spec.background), spec), spec)


def _another_interpolation(data: bytes, spec: Preprocessing) -> Pixels:
    return prepare(
        data,
        spec.model_copy(
            update={"interpolation": "bicubic" if spec.interpolation != "bicubic" else "bilinear"}
        ),
    )


def _a_shifted_crop(data: bytes, spec: Preprocessing) -> Pixels:
    image = open_image(data, spec)
    load_pixels(image)
    return crop(resize(to_rgb(orient(image), spec.background), spec), spec, offset=1)


PREPROCESSING_FAULTS: Final[Mapping[str, Prepare]] = {
    "swapped_channels": _swapped_channels,
    "ignored_exif": _ignored_exif,
    "another_interpolation": _another_interpolation,
    "a_shifted_crop": _a_shifted_crop,
}
"""Ways to get preprocessing wrong, each of which must break the golden proof."""


def _decodes(image: GoldenImage, spec: Preprocessing, way: Prepare) -> bool:
    encoded, pixels, block = image
    try:
        check_decode(encoded, pixels, block, spec, way)
    except DecodeProofError:
        return False
    return True


def _pixels(run: RunDirectory, block: Golden) -> Pixels:
    path = run.file(block.pixels, "export")
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from None
