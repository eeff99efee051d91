"""Golden images: what the service must decode and compute as training did, before it serves a version.

Some are images of the data; the others are made here and look like none of it, chosen to see what goes wrong on the way
from bytes to pixels: colours that are not symmetric, EXIF orientation 6, CMYK, alpha, 16 bits, a palette, a large
non-square JPEG.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from model_store.errors import ImageError
from model_store.manifest import DecodeTolerance, Golden, Preprocessing
from model_store.names import is_name
from model_store.preprocessing import Pixels, prepare, sniff, to_rgb
from training.data.sampling import evenly_spaced
from training.data.sources import encode
from training.errors import DataError
from training.run.data import RunData
from training.run.directory import RunDirectory, damaged
from training.run.inference import predict
from training.run.weights import load_trained

GOLDEN_FILE: Final = "golden/golden.json"
_BLOCKS: Final = TypeAdapter(Annotated[tuple[Golden, ...], Field(min_length=1)])
LOSSLESS: Final = DecodeTolerance(max_abs=2, mean_abs=0.25)
LOSSY: Final = DecodeTolerance(
    max_abs=4, mean_abs=1.0
)  # JPEG decoders of other builds round differently
_ANY_SIZE: Final = Preprocessing(resize=32, crop_height=32, crop_width=32)
_SCENE_NAMES: Final = frozenset(
    {"colours", "exif-6", "cmyk", "alpha", "grey-16-bit", "palette", "large", "golden"}
)
_ORIENTATION_TAG: Final = 0x0112


@dataclass(frozen=True)
class Probe:
    """An encoded image, what its file is called, and what it is there to catch."""

    name: str
    encoded: bytes
    purpose: str


def take_golden(run: RunDirectory, data: RunData) -> tuple[Golden, ...]:
    """Write the golden images, their pixels and the torch network's logits into the run, and return their blocks."""
    trained = load_trained(run)
    blocks = []
    for probe in [*_user_probes(run), *_validation_probes(run, data), *synthetic_probes()]:
        pixels = prepare(probe.encoded, data.preprocessing)
        logits = predict(trained.answering, [pixels[np.newaxis].copy()], trained.normalize)[
            0
        ].numpy()
        block = make_golden_block(probe, logits)
        run.write(block.image, probe.encoded)
        run.write(block.pixels, to_npy(pixels))
        blocks.append(block)
    run.write_json(GOLDEN_FILE, [block.model_dump() for block in blocks])
    return tuple(blocks)


def make_golden_block(probe: Probe, logits: NDArray[np.float32]) -> Golden:
    """The manifest's block of a golden image whose logits, `[classes]`, are these."""
    return Golden(
        image=f"golden/{probe.name}",
        pixels=f"golden/{probe.name.split('.', maxsplit=1)[0]}.npy",
        decode_tolerance=LOSSY if probe.name.endswith(".jpg") else LOSSLESS,
        logits=tuple(logits.tolist()),
        purpose=probe.purpose,
    )


def read_golden(run: RunDirectory) -> tuple[Golden, ...]:
    """The blocks that `take_golden` left. Raises RunError where it has not run."""
    run.file(GOLDEN_FILE, "export")
    try:
        return _BLOCKS.validate_json((run.path / GOLDEN_FILE).read_bytes())
    except ValidationError as error:
        raise damaged(run.path / GOLDEN_FILE, error) from None


def check_golden_images(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The same paths, when each is an image with a name of its own that fits into a version. Raises DataError."""
    stems = [Path(path).stem for path in paths]
    for path in paths:
        try:
            prepare(Path(path).read_bytes(), _ANY_SIZE)
        except (OSError, ImageError) as error:
            raise DataError(f"{path} can not be a golden image: {error}") from None
        if (
            not is_name(Path(path).name)
            or Path(path).stem in _SCENE_NAMES
            or stems.count(Path(path).stem) > 1
        ):
            raise DataError(
                f"{path} can not be a golden image under this name; call it with letters, digits, '.', '_' or '-', once"
            )
    return paths


def _user_probes(run: RunDirectory) -> Iterator[Probe]:
    """The pictures that the person gave."""
    for path in map(Path, run.config().golden_images):
        encoded = path.read_bytes()
        suffix = (sniff(encoded) or "").lower().replace("jpeg", "jpg")
        yield Probe(f"{path.stem}.{suffix}", encoded, "a picture given with the training")


def _validation_probes(run: RunDirectory, data: RunData) -> Iterator[Probe]:
    """Images of the validation split, of as many classes as the config wants samples; the last as JPEG."""
    chosen, images = data.split.validation, data.images
    _, firsts = np.unique(images.labels[chosen], return_index=True)
    spread = evenly_spaced(firsts, run.config().golden_samples)
    for position, index in enumerate(chosen[spread], start=1):
        label = images.class_names[images.labels[index]]
        encoded = images.encoded[index]
        kind = (sniff(encoded) or "").lower().replace("jpeg", "jpg")
        yield Probe(
            f"sample-{position}.{kind}", encoded, f"an image of the validation split, class {label}"
        )
    if len(spread):
        image = to_rgb(
            Image.open(io.BytesIO(images.encoded[chosen[spread[-1]]])),
            data.preprocessing.background,
        )
        yield Probe(
            "sample-jpeg.jpg", encode(image, "JPEG", quality=90), "the same image after JPEG"
        )


def synthetic_probes() -> Iterator[Probe]:
    """The images that are made here, each to catch a way in which decoding goes wrong."""
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = 6
    alpha = _picture(96, 128).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    grey = Image.fromarray(draw_scene(120, 90).sum(axis=2, dtype=np.uint16) * np.uint16(85))
    for name, image, options, purpose in (
        ("colours.png", _picture(160, 120), {}, "channels that are not interchangeable"),
        (
            "exif-6.jpg",
            _picture(640, 427),
            {"exif": exif.tobytes()},
            "a phone held upright: EXIF orientation 6",
        ),
        ("cmyk.jpg", _picture(320, 240).convert("CMYK"), {}, "a JPEG for print: CMYK"),
        ("alpha.png", alpha, {}, "transparency over the background colour"),
        (
            "grey-16-bit.png",
            grey,
            {},
            "16-bit grey, which clips to white when converted carelessly",
        ),
        ("palette.png", _picture(128, 96).quantize(64), {}, "colours from a palette"),
        (
            "large.jpg",
            _picture(1500, 1000),
            {"quality": 50},
            "a large photograph that is not square",
        ),
    ):
        if name.endswith(".jpg"):
            yield Probe(name, encode(image, "JPEG", **{"quality": 80, **options}), purpose)
        else:
            yield Probe(name, encode(image, "PNG", optimize=True), purpose)


def _picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(draw_scene(width, height))


def draw_scene(width: int, height: int) -> NDArray[np.uint8]:
    """A picture with no symmetry, the same on every machine: uint8 `[height, width, 3]`, from integer arithmetic alone."""
    y, x = np.mgrid[0:height, 0:width]
    u, v = x * 1024 // width, y * 1024 // height
    red = u // 4
    green = np.where((u // 96 + v // 128) % 3 == 0, 210, v // 8)
    blue = np.where((u - 700) ** 2 + (v - 300) ** 2 < 180**2, 230, 40 + (u + 2 * v) // 24 % 64)
    stripe = (u + v) % 256 < 48
    return np.stack([np.where(stripe, 250, red), green, np.where(stripe, 20, blue)], axis=2).astype(
        np.uint8
    )


def to_npy(pixels: Pixels) -> bytes:
    """Pixels as a version keeps them."""
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()
