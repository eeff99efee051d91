"""Files with more parts than any real image: refused before Pillow reads them."""

import struct

import pytest
from image_bombs import BOMBS, MEBIBYTE, bmp_run_length, small, tiff, tiff_layout
from pictures import encoded, picture
from PIL import Image, PngImagePlugin

from model_store.errors import ImageTooExpensiveError
from model_store.image_structure import (
    MAX_JPEG_SEGMENTS,
    MAX_RUN_LENGTH_PIXELS,
    MAX_TIFF_TILE_PIXELS,
    check_structure,
)
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

SPEC = Preprocessing(resize=8, crop_height=8, crop_width=8)


@pytest.fixture
def no_image_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Pillow read the file")

    monkeypatch.setattr(Image, "open", refuse)


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_before_pillow_reads_it(name: str, request: pytest.FixtureRequest) -> None:
    """Files of 4 MiB that would take seconds or gigabytes."""
    data = BOMBS[name](4 * MEBIBYTE)
    request.getfixturevalue("no_image_is_opened")
    with pytest.raises(ImageTooExpensiveError):
        prepare(data, SPEC)


def test_jpeg_with_a_profile_and_metadata_is_decoded() -> None:
    """A 3 MB ICC profile takes 47 segments; Exif, a comment and padding are usual."""
    data = encoded(
        picture(1), "JPEG", icc_profile=bytes(3 * MEBIBYTE), exif=b"Exif\0\0II*\0", comment=b"x"
    )
    assert prepare(data[:2] + b"\xff" * 16 + data[2:], SPEC).shape == (8, 8, 3)


def test_jpeg_segments_are_counted() -> None:
    """One segment fewer than the limit passes the check, and one more does not."""
    data = small("JPEG")
    own = data[: data.index(b"\xff\xda")].count(b"\xff") + 1
    for count, refused in ((MAX_JPEG_SEGMENTS - own, False), (MAX_JPEG_SEGMENTS + 1, True)):
        image = data[:2] + b"\xff\xe5\0\2" * count + data[2:]
        if refused:
            with pytest.raises(ImageTooExpensiveError):
                check_structure("JPEG", image)
        else:
            check_structure("JPEG", image)


def test_png_with_metadata_is_decoded() -> None:
    """Texts before the pixels, and pixels in many chunks."""
    info = PngImagePlugin.PngInfo()
    for number in range(50):
        info.add_text(f"key{number}", "value", zip=True)
    image = picture(2, 500, 500)
    assert prepare(encoded(image, "PNG", pnginfo=info), SPEC).shape == (8, 8, 3)


def test_bytes_after_the_end_of_a_png_are_no_chunks() -> None:
    """A file with zeros at its end is decoded, as by every viewer."""
    assert prepare(small("PNG") + bytes(MEBIBYTE), SPEC).shape == (8, 8, 3)


def test_animated_gif_with_comment_is_decoded() -> None:
    frames = [picture(seed, 20, 20) for seed in range(3)]
    data = encoded(
        frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"x" * 5000, loop=0
    )
    assert prepare(data, SPEC).shape == (8, 8, 3)


def test_run_length_bmp_is_decoded() -> None:
    """Up to the limit of pixels."""
    data = bmp_run_length(32, 32, b"\x20\0\0\0" * 32 + b"\0\1")
    assert prepare(data, SPEC).shape == (8, 8, 3)
    side = int(MAX_RUN_LENGTH_PIXELS**0.5)
    check_structure("BMP", bmp_run_length(side, side, b"\0\1"))
    with pytest.raises(ImageTooExpensiveError):
        check_structure("BMP", bmp_run_length(side, side + 1, b"\0\1"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
def test_size_of_tiles_is_read_in_every_kind_of_tiff(order: str, big: bool) -> None:
    """Both byte orders, classic and BigTIFF."""
    side = int(MAX_TIFF_TILE_PIXELS**0.5)
    for height, refused in ((side, False), (side + 1, True)):
        tags = ((256, 10), (257, 10), (322, side), (323, height))
        mark = b"II" if order == "<" else b"MM"
        if big:
            entries = b"".join(struct.pack(f"{order}HHQI4x", tag, 4, 1, v) for tag, v in tags)
            head = mark + struct.pack(f"{order}HHHQQ", 43, 8, 0, 16, len(tags))
        else:
            entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, v) for tag, v in tags)
            head = mark + struct.pack(f"{order}HIH", 42, 8, len(tags))
        if refused:
            with pytest.raises(ImageTooExpensiveError):
                check_structure("TIFF", head + entries)
        else:
            check_structure("TIFF", head + entries)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_ordinary_tiff_is_decoded(compression: str) -> None:
    assert prepare(encoded(picture(3, 300, 300), "TIFF", compression=compression), SPEC).shape == (
        8,
        8,
        3,
    )


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_no_cut_file_breaks_the_check(image_format: str) -> None:
    """A file that ends anywhere in its structure passes or is refused."""
    data = tiff(tiff_layout(4, 4, 1)) if image_format == "TIFF" else small(image_format)
    for length in range(min(len(data), 1500)):
        check_structure(image_format, data[:length])
