"""Activation maps: exact, and aligned with the image as it was sent."""

import io

import numpy as np
import pytest
from PIL import Image

from model_store.activation_maps import (
    OVERLAY_SIDE,
    ClassifierWeights,
    activation_maps,
    read_classifier,
    render_overlays,
)
from model_store.geometry import Region, visible_region
from model_store.image_header import open_image
from model_store.manifest import Letterbox, Preprocessing
from model_store.preprocessing import decode, reduction
from model_store.session import Session
from model_store.store import BUILTIN_ROOT, ModelStore

SIDE = 32
SPECS = {
    "crop": Preprocessing(resize=40, crop_height=SIDE, crop_width=SIDE),
    "wide crop": Preprocessing(resize=(40, 60), crop_height=SIDE, crop_width=48),
    "exact": Preprocessing(resize_mode="exact", resize=SIDE, crop_height=SIDE, crop_width=SIDE),
    "letterbox": Preprocessing(
        resize_mode="letterbox",
        resize=SIDE,
        crop_height=SIDE,
        crop_width=SIDE,
        letterbox=Letterbox(padding=(0, 0, 0)),
    ),
}
RED = ClassifierWeights(np.array([[1, -0.5, -0.5]], np.float32), np.zeros(1, np.float32))
STORED = {  # how a camera stores an upright image that it marks with an orientation
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
WIDTH, HEIGHT, PATCH = 2400, 1600, 160
Box = tuple[int, int, int, int]


def corners(spec: Preprocessing) -> list[Box]:
    """A box in each corner of what the model sees of the photograph."""
    region = visible_region(WIDTH, HEIGHT, spec)
    left, top = max(0, region.left), max(0, region.top)
    right = min(WIDTH, region.left + region.width) - PATCH
    bottom = min(HEIGHT, region.top + region.height) - PATCH
    return [
        (round(x), round(y), round(x) + PATCH, round(y) + PATCH)
        for x in (left, right)
        for y in (top, bottom)
    ]


def photograph(box: Box, orientation: int) -> bytes:
    """A grey JPEG with a red patch, stored in an orientation."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (90, 100, 110))
    image.paste((255, 0, 0), box)
    if (stored := STORED[orientation]) is not None:
        image = image.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def upright_size(data: bytes) -> tuple[int, int]:
    spec = SPECS["crop"]
    return decode(open_image(data, spec), spec).size


def open_overlay(data: bytes) -> Image.Image:
    """Open a PNG, and verify its checksums, which Pillow does only in `verify`."""
    Image.open(io.BytesIO(data)).verify()
    return Image.open(io.BytesIO(data)).convert("RGBA")


def test_overlay_draws_the_map_inside_its_region() -> None:
    """From transparent to the strongest colour; interpolated between the centres of its cells."""
    region = Region(left=16, top=0, width=32, height=32)
    maps = np.array([[[0, 1], [0, 1]], [[-1, -1], [-2, -3]]], np.float32)
    strong, weak = (open_overlay(each) for each in render_overlays(maps, (64, 32), region))
    assert strong.size == weak.size == (64, 32)
    alpha = np.asarray(strong.getchannel("A"))
    assert not alpha[:, :16].any()
    assert not alpha[:, 48:].any()
    assert (alpha == alpha[0]).all()
    assert alpha[0, 16:24].max() == 0
    assert (np.diff(alpha[0, 23:41].astype(int)) > 0).all()
    assert alpha[0, 40:48].tolist() == [alpha.max()] * 8
    assert strong.getpixel((47, 0))[:3] == (240, 249, 33)
    assert not np.asarray(weak.getchannel("A")).any(), "nothing supports this class"


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("orientation", STORED)
def test_overlay_peaks_inside_a_striking_patch(name: str, orientation: int) -> None:
    """In every corner, through EXIF orientation, reduced decode, resize, padding and crop."""
    spec = SPECS[name]
    for box in corners(spec):
        data = photograph(box, orientation)
        assert reduction(Image.open(io.BytesIO(data)), spec) > 1
        pixels, size = decode(open_image(data, spec), spec)
        assert size == (WIDTH, HEIGHT)
        features = pixels.transpose(2, 0, 1).astype(np.float32)
        maps = activation_maps(features, RED, [0])
        (data,) = render_overlays(maps, size, visible_region(*size, spec))
        overlay = open_overlay(data)
        assert max(overlay.size) == OVERLAY_SIDE
        assert overlay.width / overlay.height == pytest.approx(WIDTH / HEIGHT, rel=0.02)
        alpha = np.asarray(overlay.getchannel("A"))
        y, x = np.unravel_index(alpha.argmax(), alpha.shape)
        scale = WIDTH / overlay.width
        assert box[0] <= (x + 0.5) * scale <= box[2]
        assert box[1] <= (y + 0.5) * scale <= box[3]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_size_of_a_turned_image_is_that_of_the_upright_one(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, kind, exif=exif)
    assert upright_size(buffer.getvalue()) == (20, 40)


def test_orientation_after_the_pixels_of_a_png_counts() -> None:
    """Pillow reads it only with the pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    moved = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    for png in (data, moved):
        assert upright_size(png) == (20, 40)


@pytest.mark.parametrize("model", ["cifar10", "digits-resnet20", "fashion-resnet20"])
def test_mean_of_a_map_plus_bias_is_the_logit(model: str) -> None:
    """Of every built-in model, for every class of every golden image."""
    with ModelStore(BUILTIN_ROOT).open(model, 1) as version:
        manifest, classifier = version.manifest, read_classifier(version)
        session = Session(version.path("model.onnx"), manifest.input, manifest.outputs)
        pixels = np.stack([np.load(version.path(golden.pixels)) for golden in manifest.golden])
    logits, features = session.run_with_features(pixels)
    classes = range(len(manifest.class_names))
    for row, image_features in zip(logits, features, strict=True):
        maps = activation_maps(image_features, classifier, classes)
        np.testing.assert_allclose(maps.mean(axis=(1, 2)) + classifier.bias, row, atol=1e-4)
