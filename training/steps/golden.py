"""Golden images. Before a version serves, the service must reproduce their pixels and logits.

Some are images of the user or of the validation split. The others are drawn here, and each detects
one decoding fault: swapped channels, EXIF orientation, CMYK, alpha, 16 bits, a palette, a large
JPEG.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from pydantic import Field, TypeAdapter, ValidationError

from model_store.image_header import sniff
from model_store.manifest import DecodeTolerance, Golden
from model_store.preprocessing import Pixels, prepare, to_rgb
from training.data.sampling import evenly_spaced
from training.data.sources import encode
from training.run.data import RunData
from training.run.directory import Run, RunDirectory, damaged_file_error
from training.run.inference import predict
from training.run.weights import load_trained

SAMPLE_PREFIX: Final = "sample-"
GOLDEN_FILE: Final = "golden/golden.json"
LOSSLESS: Final = DecodeTolerance(max_abs=2, mean_abs=0.25)
LOSSY: Final = DecodeTolerance(max_abs=4, mean_abs=1.0)  # JPEG decoders round differently
_GOLDEN_LIST: Final = TypeAdapter(Annotated[tuple[Golden, ...], Field(min_length=1)])


@dataclass(frozen=True)
class Probe:
    """An encoded image with its file name and what it detects."""

    name: str
    encoded: bytes
    purpose: str


def write_golden(run: Run, data: RunData) -> tuple[Golden, ...]:
    """Write golden images, their pixels and torch's logits into the run; return their blocks."""
    trained = load_trained(run)
    network = trained.inference_network
    blocks = []
    samples = sample_probes(data, "validation", run.config.golden_samples)
    for probe in [*_user_probes(run), *samples, *synthetic_probes()]:
        pixels = prepare(probe.encoded, data.preprocessing)
        logits = predict(network, [pixels[np.newaxis].copy()], trained.normalize)[0].numpy()
        block = make_golden_block(probe, logits)
        run.write(block.image, probe.encoded)
        run.write(block.pixels, to_npy(pixels))
        blocks.append(block)
    run.write_json(GOLDEN_FILE, [block.model_dump() for block in blocks])
    return tuple(blocks)


def make_golden_block(probe: Probe, logits: NDArray[np.float32]) -> Golden:
    """Return the manifest's block of a golden image with these logits, float32 `[classes]`."""
    return Golden(
        image=f"golden/{probe.name}",
        pixels=f"golden/{probe.name.split('.', maxsplit=1)[0]}.npy",
        decode_tolerance=LOSSY if probe.name.endswith(".jpg") else LOSSLESS,
        logits=tuple(logits.tolist()),
        purpose=probe.purpose,
    )


def read_golden(run: RunDirectory) -> tuple[Golden, ...]:
    """Return the blocks of a run. Raises RunError if they are missing or damaged."""
    path = run.file(GOLDEN_FILE, "export")
    try:
        return _GOLDEN_LIST.validate_json(path.read_bytes())
    except ValidationError as error:
        raise damaged_file_error(path, error) from None


def _user_probes(run: Run) -> Iterator[Probe]:
    for path in map(Path, run.config.golden_images):
        encoded = path.read_bytes()
        yield Probe(
            f"{path.stem}.{_suffix(encoded)}", encoded, "an image given with --golden-image"
        )


def sample_probes(
    data: RunData, split: Literal["validation", "test"], count: int
) -> Iterator[Probe]:
    """Yield the first image of each of `count` classes in a split, the last one also as JPEG."""
    indices, images = vars(data.split)[split], data.images
    _, firsts = np.unique(images.labels[indices], return_index=True)
    chosen = indices[evenly_spaced(firsts, count)]
    for position, index in enumerate(chosen, start=1):
        encoded, label = images.encoded[index], images.class_names[images.labels[index]]
        purpose = f"an image of the {split} split, class {label}"
        yield Probe(f"{SAMPLE_PREFIX}{position}.{_suffix(encoded)}", encoded, purpose)
    if len(chosen):
        opened = Image.open(io.BytesIO(images.encoded[chosen[-1]]))
        image = to_rgb(opened, data.preprocessing.background)
        encoded = encode(image, "JPEG", quality=90)
        yield Probe(f"{SAMPLE_PREFIX}jpeg.jpg", encoded, "the same image after JPEG")


def _suffix(encoded: bytes) -> str:
    return (sniff(encoded) or "").lower().replace("jpeg", "jpg")


def synthetic_probes() -> Iterator[Probe]:
    """Yield the drawn images. Their names are reserved in `run/golden_images.py`."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    rotated = {"exif": exif.tobytes()}
    alpha = _draw_image(96, 128).convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    grey = Image.fromarray(draw_scene(120, 90).sum(axis=2, dtype=np.uint16) * np.uint16(85))
    for name, image, options, purpose in (
        ("colours.png", _draw_image(160, 120), {}, "swapped channels"),
        ("exif-6.jpg", _draw_image(640, 427), rotated, "EXIF orientation 6, an upright phone"),
        ("cmyk.jpg", _draw_image(320, 240).convert("CMYK"), {}, "a CMYK JPEG, for print"),
        ("alpha.png", alpha, {}, "transparency over the background colour"),
        ("grey-16-bit.png", grey, {}, "16-bit grey, which clips to white if converted naively"),
        ("palette.png", _draw_image(128, 96).quantize(64), {}, "palette colours"),
        ("large.jpg", _draw_image(1500, 1000), {"quality": 50}, "a large, non-square photograph"),
    ):
        if name.endswith(".jpg"):
            yield Probe(name, encode(image, "JPEG", **{"quality": 80, **options}), purpose)
        else:
            yield Probe(name, encode(image, "PNG", optimize=True), purpose)


def _draw_image(width: int, height: int) -> Image.Image:
    return Image.fromarray(draw_scene(width, height))


def draw_scene(width: int, height: int) -> NDArray[np.uint8]:
    """Draw an image without symmetry, equal on every machine: uint8 `[height, width, 3]`."""
    # integers only: floats may round differently on another machine
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
    buffer = io.BytesIO()
    np.save(buffer, pixels, allow_pickle=False)
    return buffer.getvalue()
