"""HEIC images: upright like JPEGs, the primary image, and no preview."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from store_factory import encode, scene

from model_store.errors import ImageTruncatedError
from model_store.image_header import open_image, sniff
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

pillow_heif = pytest.importorskip("pillow_heif", reason="needs the extra heif")
SCENE = scene(120, 80)
SPEC = Preprocessing(resize=48, crop_height=40, crop_width=44)


def difference(first: bytes, second: bytes) -> float:
    pixels = [prepare(data, SPEC).astype(int) for data in (first, second)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def several(*images: Image.Image, primary: int = 0, **options: Any) -> bytes:
    """A file with several images."""
    file = pillow_heif.HeifFile()
    for image in images:
        file.add_from_pillow(image)
    buffer = io.BytesIO()
    file.save(buffer, quality=95, primary_index=primary, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_image_is_turned_upright_once(orientation: int) -> None:
    """As the same picture as JPEG. HEIC has the turn twice: in its own format and in EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"quality": 95, "exif": exif.tobytes()}
    heic, jpeg = (encode(SCENE, image_format, **options) for image_format in ("HEIF", "JPEG"))
    assert difference(heic, jpeg) < 4
    other = encode(SCENE.rotate(180), "JPEG", **options)
    assert difference(heic, other) > 20


@pytest.mark.parametrize("primary", [0, 1])
def test_primary_image_counts(primary: int) -> None:
    images = (SCENE, SCENE.rotate(180))
    data = several(*images, primary=primary)
    assert difference(data, encode(images[primary], "PNG")) < 4
    assert difference(data, encode(images[1 - primary], "PNG")) > 20


def test_preview_is_not_decoded_in_place_of_the_image() -> None:
    """It would be fuzzy."""
    large = scene(600, 400)
    data = several(large, thumbnails=[100])
    assert "thumbnails" in pillow_heif.open_heif(data).info
    assert open_image(data, SPEC).size == (600, 400)
    assert difference(data, encode(large, "PNG")) < 2


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_modes_are_those_of_other_formats(mode: str) -> None:
    image = SCENE.convert(mode)
    if mode.endswith("A"):
        image.putalpha(128)
    assert difference(encode(image, "HEIF", quality=95), encode(image, "PNG")) < 4


def test_deep_colours_are_rounded() -> None:
    """10 bits, as of new phones."""
    levels = np.asarray(SCENE).astype(np.uint16) * 257
    heif = pillow_heif.from_bytes("RGB;16", SCENE.size, levels.tobytes())
    buffer = io.BytesIO()
    heif.save(buffer, quality=95)
    assert pillow_heif.open_heif(buffer.getvalue()).info["bit_depth"] == 10
    assert difference(buffer.getvalue(), encode(SCENE, "PNG")) < 4


def test_cut_image_is_truncated() -> None:
    data = encode(SCENE, "HEIF")
    assert sniff(data) == "HEIF"
    for kept in (len(data) - 1, len(data) // 2):
        with pytest.raises(ImageTruncatedError):
            prepare(data[:kept], SPEC)
