"""The metadata of a PNG is the same without its pixels."""

import io
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from model_store.png_metadata import without_pixels
from model_store.preprocessing import upright_size

ORIENTATION = 0x0112
XMP = '<x:xmpmeta><rdf:RDF><rdf:Description tiff:Orientation="8"/></rdf:RDF></x:xmpmeta>'


def encode(mode: str = "RGB", *, turned: bool = True, **options: object) -> bytes:
    exif = Image.Exif()
    if turned:
        exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    Image.new(mode, (40, 20)).save(buffer, "PNG", exif=exif, **options)
    return buffer.getvalue()


def move_to_the_end(png: bytes, kind: bytes) -> bytes:
    start = png.index(kind) - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    return png[:start] + png[end:-12] + png[start:end] + png[-12:]


def damage_pixels(png: bytes) -> bytes:
    """The same chunks with a compressed stream that cannot be decoded."""
    start = png.index(b"IDAT") - 4
    end = start + 12 + int.from_bytes(png[start : start + 4], "big")
    content = b"IDAT" + b"\xff" * 20
    chunk = struct.pack(">I", 20) + content + struct.pack(">I", zlib.crc32(content))
    return png[:start] + chunk + png[end:]


def with_xmp() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    return encode(turned=False, pnginfo=text)


def animation() -> bytes:
    return encode(save_all=True, append_images=[Image.new("RGB", (40, 20), "red")])


IMAGES = {
    **{mode: encode(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "after the pixels": move_to_the_end(encode(), b"eXIf"),
    "not turned": encode(turned=False),
    "XMP": with_xmp(),
    "XMP after the pixels": move_to_the_end(with_xmp(), b"iTXt"),
    "animation": animation(),
    "animation, after its frames": move_to_the_end(animation(), b"eXIf"),
    "cut": encode()[:-20],
}


@pytest.mark.parametrize("png", IMAGES.values(), ids=IMAGES)
def test_orientation_is_the_same_without_pixels(png: bytes) -> None:
    small = Image.open(io.BytesIO(without_pixels(png)))
    assert small.size == (1, 1)
    small.load()
    original = Image.open(io.BytesIO(png))
    assert small.mode == original.mode
    assert small.getexif().get(ORIENTATION) == original.getexif().get(ORIENTATION)


@pytest.mark.parametrize("kind", ["eXIf", "none"])
def test_size_of_a_png_is_found_without_decoding(kind: str) -> None:
    """Decoding the pixels would need memory that only decoder processes may use."""
    png = damage_pixels(encode(turned=kind == "eXIf"))
    assert upright_size(png) == ((20, 40) if kind == "eXIf" else (40, 20))
