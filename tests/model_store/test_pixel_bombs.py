"""Small files that would become gigabytes or take seconds: refused by what their header says."""

import struct

import pytest
from pictures import png_chunk
from PIL import Image, ImageFile
from store_factory import encode, png, scene

from model_store import preprocessing
from model_store.errors import (
    ImageCorruptError,
    ImageTooExpensiveError,
    TooManyPixelsError,
)
from model_store.image_header import FORMATS, PILLOW_MAX_PIXELS, sniff
from model_store.manifest import Letterbox, Preprocessing
from model_store.preprocessing import prepare

SCENE = scene(24, 16)
SMALL = Preprocessing(resize=8, crop_height=8, crop_width=8)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The image with another size in its header alone."""
    image_format = sniff(data)
    out = bytearray(data)
    if image_format == "PNG":
        return png(width, height, 8, 2)
    if image_format == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        out[place : place + 4] = struct.pack(">HH", height, width)
    elif image_format == "GIF":
        out[6:10] = struct.pack("<HH", width, height)
    elif image_format == "BMP":
        out[18:26] = struct.pack("<ii", width, height)
    elif image_format == "TIFF":
        for tag, value in ((256, width), (257, height)):
            place = data.index(struct.pack("<HHI", tag, 4, 1))
            out[place + 8 : place + 12] = struct.pack("<I", value)
    elif image_format == "WEBP":
        place = data.index(b"VP8L") + 9
        (bits,) = struct.unpack_from("<I", data, place)
        struct.pack_into("<I", out, place, bits & 0xF0000000 | (height - 1) << 14 | (width - 1))
    elif image_format in {"AVIF", "HEIF"}:
        place = data.index(b"ispe") + 8
        out[place : place + 8] = struct.pack(">II", width, height)
    return bytes(out)


class TestPixelBombs:
    @pytest.fixture
    def harmless(self) -> dict[str, bytes]:
        """A small image of each format."""
        side = 64  # HEIF crops smaller ones, so that they have two sizes
        return {name: encode(scene(side, side), name, lossless=True) for name in FORMATS}

    @pytest.fixture(autouse=True)
    def no_pixel_is_decoded(
        self, harmless: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever decodes pixels in these tests, once the harmless images are made, fails."""
        assert len(harmless) == len(FORMATS)

        def refuse(_: Image.Image) -> None:
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr(Image.Image, "load", refuse)
        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
        monkeypatch.setattr(preprocessing, "load_pixels", refuse)

    @pytest.mark.parametrize("image_format", FORMATS)
    @pytest.mark.parametrize(
        "side", [16000, 10000, 9000]
    )  # Pillow refuses, Pillow warns, we refuse
    def test_a_bomb_is_refused_by_its_header(
        self, image_format: str, side: int, harmless: dict[str, bytes]
    ) -> None:
        """Before a pixel is decoded, in every format."""
        with pytest.raises(TooManyPixelsError, match="52,428,800"):
            prepare(with_size(harmless[image_format], side, side), SMALL)

    @pytest.mark.parametrize("size", [(60000, 60000), (2**31 - 1, 2**31 - 1), (1, 2**31 - 1)])
    def test_a_bomb_may_be_of_any_size(self, size: tuple[int, int]) -> None:
        """The largest sizes that a PNG header can name are refused as all others are."""
        with pytest.raises(TooManyPixelsError):
            prepare(png(*size, 8, 2), SMALL)

    @pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
    def test_pillows_warning_need_not_be_an_error(self) -> None:
        """Where Pillow only warns, as in a service, our own limit refuses the image."""
        side = int(PILLOW_MAX_PIXELS**0.5) + 2
        with (
            pytest.warns(Image.DecompressionBombWarning),
            pytest.raises(TooManyPixelsError, match=f"{side}x{side}"),
        ):
            prepare(png(side, side, 8, 2), SMALL)

    @pytest.mark.parametrize("size", [(10, 100_000), (100_000, 10)])
    def test_an_elongated_image_does_not_explode_in_the_resize(self, size: tuple[int, int]) -> None:
        """A million pixels that would become 655 million."""
        spec = Preprocessing(resize=256, crop_height=224, crop_width=224)
        with pytest.raises(
            TooManyPixelsError,
            match="655,360,000",
        ):
            prepare(png(*size, 8, 2), spec)


@pytest.mark.parametrize("size", [(200, 1), (1, 200)])
def test_padding_of_a_letterbox_counts_as_pixels(size: tuple[int, int]) -> None:
    """The canvas is allocated, however thin the image is."""
    spec = Preprocessing(
        resize=(30, 50),
        crop_height=30,
        crop_width=40,
        resize_mode="letterbox",
        letterbox=Letterbox(padding=(0, 0, 0)),
    )
    # 200x1 fills 50 columns, of which the crop keeps 40.
    pixels = 50 * 30
    data = encode(Image.new("RGB", size), "PNG")
    assert prepare(data, spec, max_pixels=pixels).shape == (30, 40, 3)
    with pytest.raises(TooManyPixelsError, match="50x30 = 1,500"):
        prepare(data, spec, max_pixels=pixels - 1)


def test_the_limit_itself_is_allowed() -> None:
    """An image of exactly `max_pixels` passes, one with a pixel more does not."""
    data = encode(SCENE, "PNG")
    assert prepare(data, SMALL, max_pixels=24 * 16).shape == (8, 8, 3)
    with pytest.raises(TooManyPixelsError, match=r"24x16 = 384 .*383"):
        prepare(data, SMALL, max_pixels=24 * 16 - 1)


def test_a_jpeg_of_countless_scans_is_refused_by_its_header() -> None:
    """A dozen bytes a scan, and each costs a look at all pixels: 20 kB would take seconds."""
    data = encode(scene(1200, 900), "JPEG", progressive=True)
    assert prepare(data, SMALL).shape == (8, 8, 3)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageCorruptError, match="1200x900"):
        prepare(data[:-2] + data[last:-2] * 2000 + data[-2:], SMALL)


def test_a_png_of_countless_chunks_is_refused_by_its_header() -> None:
    """Every chunk may inflate to a megabyte; no real image has hundreds."""
    data = encode(Image.new("RGB", (4, 4)), "PNG")
    chunk = png_chunk(b"teSt", b"")
    few, many = (data[:33] + chunk * count + data[33:] for count in (100, 300))
    spec = Preprocessing(resize=4, crop_height=4, crop_width=4)
    assert prepare(few, spec).shape == (4, 4, 3)
    with pytest.raises(ImageTooExpensiveError, match="256"):
        prepare(many, spec)
