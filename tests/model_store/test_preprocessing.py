"""Bytes to pixels: every format and mode, orientation, geometry, and whatever a stranger may send instead of an image."""

import itertools
import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile
from store_factory import encode, oriented, png, png_chunk, scene

from model_store import preprocessing
from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTruncatedError,
    ImageUnsupportedError,
    NotAnImageError,
    TooManyPixelsError,
)
from model_store.manifest import Interpolation, Preprocessing
from model_store.preprocessing import FORMATS, PILLOW_MAX_PIXELS, Pixels, prepare, resized_size, sniff

SCENE = scene(24, 16)
SMALL = Preprocessing(resize=8, crop_height=8, crop_width=8)
PINK = (255, 0, 128)
RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def as_it_is(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Preprocessing:
    """The preprocessing that neither resizes nor crops this image."""
    return Preprocessing(
        resize_mode="exact", resize=1, crop_height=image.height, crop_width=image.width, background=background
    )  # fmt: skip


def deviation(pixels: Pixels, expected: np.ndarray) -> float:
    """The mean difference in grey levels, and no less than infinity where the shapes differ."""
    if pixels.shape != expected.shape:
        return float("inf")
    return float(np.abs(pixels.astype(int) - expected.astype(int)).mean())


def animation(image_format: str) -> bytes:
    """The scene and, after it, another picture."""
    return encode(SCENE, image_format, save_all=True, append_images=[SCENE.rotate(180)], duration=100)


class TestFormats:
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_every_format_is_decoded(self, image_format: str) -> None:
        """Every format that is offered gives the picture, as uint8 of the crop's size, within what its compression loses."""
        data = encode(SCENE, image_format)
        pixels = prepare(data, as_it_is(SCENE))
        assert sniff(data) == image_format
        assert pixels.dtype == np.uint8
        assert pixels.shape == (16, 24, 3)
        assert deviation(pixels, np.asarray(SCENE)) < (25 if image_format in {"JPEG", "WEBP", "GIF"} else 0.001)

    @pytest.mark.parametrize(
        ("image_format", "options"),
        [
            ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
            ("JPEG", {"optimize": True, "quality": 95, "subsampling": 0}),
            ("WEBP", {"lossless": True}),
            ("PNG", {"compress_level": 0}),
            *[("TIFF", {"compression": kind}) for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")],
            ("TIFF", {"big_tiff": True}),
        ],
    )
    def test_every_compression_is_decoded(self, image_format: str, options: dict[str, object]) -> None:
        """The variants within a format give the same picture."""
        limit = 8 if image_format == "JPEG" else 0
        assert deviation(prepare(encode(SCENE, image_format, **options), as_it_is(SCENE)), np.asarray(SCENE)) <= limit

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
    def test_of_an_animation_the_first_frame_counts(self, image_format: str) -> None:
        """Of a file with several pictures the first is taken, as if it were alone."""
        pixels = prepare(animation(image_format), as_it_is(SCENE))
        assert deviation(pixels, np.asarray(SCENE)) < 25 < deviation(pixels, np.asarray(SCENE.rotate(180)))

    def test_the_media_type_is_not_believed_over_the_bytes(self) -> None:
        """Nothing but the first bytes decides on the format: only the six formats are ever tried."""
        for other in ("ICO", "PPM", "TGA", "PCX", "JPEG2000", "DDS"):
            assert sniff(encode(SCENE, other)) is None
            with pytest.raises(NotAnImageError):
                prepare(encode(SCENE, other), SMALL)


class TestModes:
    def test_one_bit_becomes_black_and_white(self) -> None:
        """Mode 1 gives 0 and 255."""
        image = SCENE.convert("1")
        expected = np.repeat(np.asarray(image)[..., np.newaxis] * 255, 3, axis=2)
        assert deviation(prepare(encode(image, "PNG"), as_it_is(image)), expected) == 0

    def test_grey_becomes_three_equal_channels(self) -> None:
        """Mode L gives each grey level in all channels, from PNG and from grey JPEG."""
        image = SCENE.convert("L")
        expected = np.repeat(np.asarray(image)[..., np.newaxis], 3, axis=2)
        assert deviation(prepare(encode(image, "PNG"), as_it_is(image)), expected) == 0
        assert deviation(prepare(encode(image, "JPEG", quality=95), as_it_is(image)), expected) < 5

    def test_a_palette_is_looked_up(self) -> None:
        """Mode P gives the palette's colours, not the indices."""
        image = SCENE.quantize(16)
        palette = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
        for image_format in ("PNG", "GIF", "BMP", "TIFF"):
            assert deviation(prepare(encode(image, image_format), as_it_is(image)), palette[np.asarray(image)]) == 0

    @pytest.mark.parametrize("image_format", ["PNG", "GIF"])
    def test_a_transparent_palette_colour_shows_the_background(self, image_format: str) -> None:
        """Where the palette's transparent colour stands the background is seen, and elsewhere the palette's colours."""
        image = SCENE.quantize(16)
        expected = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[np.asarray(image)]
        expected[np.asarray(image) == 3] = PINK
        pixels = prepare(encode(image, image_format, transparency=3), as_it_is(image, PINK))
        assert deviation(pixels, expected) == 0

    def test_palette_colours_may_be_half_transparent(self) -> None:
        """A palette with an alpha for each colour is laid over the background by it."""
        image = SCENE.quantize(4)
        alphas = np.array([0, 64, 128, 255])
        palette = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)[:4]
        mixed = palette * (alphas[:, np.newaxis] / 255) + np.array(PINK) * (1 - alphas[:, np.newaxis] / 255)
        pixels = prepare(encode(image, "PNG", transparency=bytes(alphas.tolist())), as_it_is(image, PINK))
        assert np.abs(pixels - mixed[np.asarray(image)]).max() <= 1

    @pytest.mark.parametrize(("mode", "transparency"), [("L", 77), ("RGB", (20, 200, 90))])
    def test_a_single_colour_may_be_transparent(self, mode: str, transparency: int | tuple[int, ...]) -> None:
        """A PNG that names one grey or colour as transparent shows the background there and nowhere else."""
        image = SCENE.convert(mode)
        image.paste(transparency, (0, 0, 5, 5))
        chosen = np.asarray(image) == np.array(transparency)
        chosen = chosen.all(axis=-1) if mode == "RGB" else chosen
        expected = np.where(chosen[..., np.newaxis], PINK, np.asarray(image.convert("RGB")))
        assert deviation(prepare(encode(image, "PNG", transparency=transparency), as_it_is(image, PINK)), expected) == 0

    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    @pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
    def test_alpha_is_laid_over_the_background(self, mode: str, image_format: str) -> None:
        """Alpha mixes the picture with the background colour, in proportion."""
        image = SCENE.convert("L") if mode == "LA" else SCENE.copy()
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        alpha = np.asarray(image.getchannel("A"))[..., np.newaxis] / 255
        expected = np.asarray(image.convert("RGBA"))[..., :3] * alpha + np.array(PINK) * (1 - alpha)
        options = {"lossless": True, "exact": True} if image_format == "WEBP" else {}
        pixels = prepare(encode(image, image_format, **options), as_it_is(image, PINK))
        assert np.abs(pixels - expected).max() <= 1

    def test_cmyk_is_not_inverted(self) -> None:
        """A CMYK JPEG and TIFF give the colours that they print: full magenta and yellow make red."""
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        for data in (encode(image, "JPEG", quality=95), encode(image, "TIFF")):
            pixels = prepare(data, as_it_is(image))
            assert pixels[..., 0].min() > 240
            assert pixels[..., 1:].max() < 15

    @pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
    def test_ycbcr_becomes_rgb(self, image_format: str) -> None:
        """Luma and chroma are converted, whether by the JPEG decoder or after a TIFF's."""
        pixels = prepare(encode(Image.new("YCbCr", (16, 16), (76, 85, 255)), image_format), as_it_is(SCENE.resize((16, 16))))
        assert deviation(pixels, np.full((16, 16, 3), (254, 0, 0))) < 3

    @pytest.mark.parametrize(("mode", "image_format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF")])
    def test_sixteen_bit_grey_does_not_become_white(self, mode: str, image_format: str) -> None:
        """Of 16-bit grey the high byte counts: a ramp stays a ramp, whatever the byte order."""
        values = np.linspace(0, 65535, 16 * 24).astype(np.uint16).reshape(16, 24)
        image = Image.frombytes(mode, (24, 16), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
        expected = np.repeat((values >> 8)[..., np.newaxis], 3, axis=2)
        assert deviation(prepare(encode(image, image_format), as_it_is(image)), expected) == 0

    @pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
    def test_sixteen_bit_colour_keeps_its_high_bytes(self, colour_type: int, channels: int) -> None:
        """16-bit RGB, grey with alpha and RGBA come down to the high byte of each channel."""
        values = np.random.default_rng(0).integers(0, 65536, (16, 24, channels)).astype(">u2")
        if channels != 3:
            values[..., -1] = 65535
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        colours = values[..., :1] if channels == 2 else values[..., :3]
        expected = np.broadcast_to(colours >> 8, (16, 24, 3))
        assert deviation(prepare(png(24, 16, 16, colour_type, rows), as_it_is(SCENE)), expected) < 0.6  # some round, some cut

    @pytest.mark.parametrize("mode", ["I", "F", "LAB"])
    def test_pixels_without_a_defined_range_are_refused(self, mode: str) -> None:
        """32-bit integers, floats and Lab are an ImageUnsupportedError that names the mode: any scaling would be a guess."""
        image = Image.new(mode, (16, 16))
        with pytest.raises(ImageUnsupportedError, match=f"mode '{mode}'"):
            prepare(encode(image, "TIFF"), SMALL)

    def test_a_colour_profile_changes_nothing(self) -> None:
        """Pixels are taken as they are stored, with a profile and without."""
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        assert deviation(prepare(encode(SCENE, "PNG", icc_profile=profile), as_it_is(SCENE)), np.asarray(SCENE)) == 0


class TestOrientation:
    STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # EXIF 2.32, tag 274: where row 0 and column 0 really are  # noqa: RUF012
        1: lambda upright: upright,
        2: lambda upright: upright[:, ::-1],  # row 0 top, column 0 right
        3: lambda upright: upright[::-1, ::-1],  # bottom, right
        4: lambda upright: upright[::-1],  # bottom, left
        5: lambda upright: upright.swapaxes(0, 1),  # left, top
        6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
        7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
    }

    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize(
        ("image_format", "options"),
        [("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
    )
    def test_every_picture_ends_upright(self, image_format: str, options: dict[str, object], orientation: int) -> None:
        """For all eight orientations, however the camera was held, the marked corner ends where it belongs."""
        upright = np.full((16, 24, 3), 255, np.uint8)
        upright[:8, :8] = (255, 0, 0)
        stored = Image.fromarray(np.ascontiguousarray(self.STORED[orientation](upright)))
        data = encode(stored, image_format, **options, **oriented(stored, orientation))
        assert deviation(prepare(data, as_it_is(Image.fromarray(upright))), upright) < 2

    @pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
    def test_an_orientation_that_does_not_exist_counts_as_none(self, orientation: int) -> None:
        """A value outside 1 to 8 leaves the picture as it is stored."""
        data = encode(SCENE, "PNG", **oriented(SCENE, orientation))
        assert deviation(prepare(data, as_it_is(SCENE)), np.asarray(SCENE)) == 0

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x09"]
    )
    def test_unreadable_exif_counts_as_none(self, image_format: str, exif: bytes) -> None:
        """Damaged EXIF does not make good pixels bad."""
        pixels = prepare(encode(SCENE, image_format, exif=exif), as_it_is(SCENE))
        assert deviation(pixels, np.asarray(SCENE)) < 25


class TestGeometry:
    # By torchvision: the longer side is int(resize * long / short); the crop begins at int(round((side - crop) / 2.0)).
    @pytest.mark.parametrize(
        ("size", "resize", "crop", "resized", "corner"),
        [
            ((500, 375), 256, (224, 224), (341, 256), (58, 16)),
            ((375, 500), 256, (224, 224), (256, 341), (16, 58)),
            ((33, 77), 32, (32, 32), (32, 74), (0, 21)),
            ((77, 33), 32, (32, 32), (74, 32), (21, 0)),
            ((3, 2), 7, (5, 5), (10, 7), (2, 1)),
            ((7, 5), 9, (8, 9), (12, 9), (2, 0)),
            ((1000, 10), 16, (16, 16), (1600, 16), (792, 0)),
            ((1, 1), 8, (8, 8), (8, 8), (0, 0)),
            ((640, 480), 232, (224, 200), (309, 232), (54, 4)),
        ],
    )
    @pytest.mark.parametrize("interpolation", RESAMPLING)
    def test_resize_and_crop_are_torchvisions(
        self,
        size: tuple[int, int],
        resize: int,
        crop: tuple[int, int],
        resized: tuple[int, int],
        corner: tuple[int, int],
        interpolation: Interpolation,
    ) -> None:
        """The shorter side is resized, the longer rounds down, and the crop lies where torchvision's would, to the pixel."""
        image = scene(*size)
        height, width = crop
        spec = Preprocessing(resize=resize, crop_height=height, crop_width=width, interpolation=interpolation)
        assert resized_size(*size, spec) == resized
        box = (*corner, corner[0] + width, corner[1] + height)
        expected = np.asarray(image.resize(resized, RESAMPLING[interpolation]).crop(box))
        assert np.array_equal(prepare(encode(image, "PNG"), spec), expected)

    @given(width=st.integers(1, 5000), height=st.integers(1, 5000), resize=st.integers(1, 512))
    def test_a_crop_always_fits(self, width: int, height: int, resize: int) -> None:
        """For any size the shorter side becomes exactly `resize`, the longer one no less, and the aspect is kept within a pixel."""
        spec = Preprocessing(resize=resize, crop_height=resize, crop_width=resize)
        resized_width, resized_height = resized_size(width, height, spec)
        assert min(resized_width, resized_height) == resize
        assert (resized_width >= resized_height) == (width >= height) or resized_width == resized_height
        assert abs(resized_width * min(width, height) - resize * width) <= min(width, height)

    def test_exact_squeezes_into_the_crops_size(self) -> None:
        """With `exact` both sides become the crop's, whatever the aspect, and nothing is cut off."""
        spec = Preprocessing(resize_mode="exact", resize=99, crop_height=10, crop_width=6)
        expected = np.asarray(SCENE.resize((6, 10), Image.Resampling.BILINEAR))
        assert np.array_equal(prepare(encode(SCENE, "PNG"), spec), expected)

    @pytest.mark.parametrize("interpolation", RESAMPLING)
    def test_an_image_of_the_right_size_is_not_touched(self, interpolation: Interpolation) -> None:
        """Resizing to the size that an image has gives exactly its pixels."""
        noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        spec = Preprocessing(resize=16, crop_height=16, crop_width=16, interpolation=interpolation)
        assert np.array_equal(prepare(encode(Image.fromarray(noise), "PNG"), spec), noise)

    def test_the_orientation_comes_before_the_geometry(self) -> None:
        """A turned picture is resized and cropped as the upright one is."""
        stored = SCENE.transpose(Image.Transpose.ROTATE_90)
        spec = Preprocessing(resize=12, crop_height=8, crop_width=12)
        assert np.array_equal(prepare(encode(stored, "PNG", **oriented(stored, 6)), spec), prepare(encode(SCENE, "PNG"), spec))


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
    return bytes(out)


class TestPixelBombs:
    @pytest.fixture
    def harmless(self) -> dict[str, bytes]:
        """A small image of each format."""
        return {name: encode(scene(16, 16), name, lossless=True) for name in FORMATS}

    @pytest.fixture(autouse=True)
    def no_pixel_is_decoded(self, harmless: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever decodes pixels in these tests, once the harmless images are made, fails."""
        assert len(harmless) == len(FORMATS)

        def refuse(_: Image.Image) -> None:
            raise AssertionError("pixels were decoded")

        monkeypatch.setattr(Image.Image, "load", refuse)
        monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
        monkeypatch.setattr(preprocessing, "load_pixels", refuse)

    @pytest.mark.parametrize("image_format", FORMATS)
    @pytest.mark.parametrize("side", [16000, 10000, 9000])  # Pillow refuses, Pillow warns, we refuse
    def test_a_bomb_is_refused_by_its_header(self, image_format: str, side: int, harmless: dict[str, bytes]) -> None:
        """A header that promises more pixels than allowed is refused before a pixel is decoded, in every format."""
        with pytest.raises(TooManyPixelsError, match="pixels; at most 52,428,800 are allowed"):
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
        with pytest.warns(Image.DecompressionBombWarning), pytest.raises(TooManyPixelsError, match=f"{side}x{side}"):
            prepare(png(side, side, 8, 2), SMALL)

    @pytest.mark.parametrize("size", [(10, 100_000), (100_000, 10)])
    def test_an_elongated_image_does_not_explode_in_the_resize(self, size: tuple[int, int]) -> None:
        """A million pixels that would be 655 million after the resize are refused before a pixel is decoded."""
        spec = Preprocessing(resize=256, crop_height=224, crop_width=224)
        with pytest.raises(TooManyPixelsError, match="with its shorter side resized to 256 it would have 655,360,000 pixels"):
            prepare(png(*size, 8, 2), spec)


def test_the_limit_itself_is_allowed() -> None:
    """An image of exactly `max_pixels` passes, one with a pixel more does not."""
    data = encode(SCENE, "PNG")
    assert prepare(data, SMALL, max_pixels=24 * 16).shape == (8, 8, 3)
    with pytest.raises(TooManyPixelsError, match="24x16 = 384 pixels; at most 383 are allowed"):
        prepare(data, SMALL, max_pixels=24 * 16 - 1)


def specimens() -> dict[str, bytes]:
    """Small valid images of every format and of many kinds, to be damaged."""
    palette, bits = SCENE.quantize(16), SCENE.convert("1")
    exif = oriented(SCENE, 6)
    grey16 = Image.fromarray((np.arange(16 * 24).reshape(16, 24) * 170).astype(np.uint16))
    return {
        "JPEG": encode(SCENE, "JPEG", **exif),
        "JPEG progressive": encode(SCENE, "JPEG", progressive=True),
        "JPEG CMYK": encode(SCENE.convert("CMYK"), "JPEG"),
        "MPO": animation("MPO"),
        "PNG": encode(SCENE, "PNG", **exif),
        "PNG palette": encode(palette, "PNG", transparency=b"\0\x80"),
        "PNG 16 bits": encode(grey16, "PNG"),
        "PNG animated": animation("PNG"),
        "WEBP": encode(SCENE, "WEBP", **exif),
        "WEBP lossless": encode(SCENE.convert("RGBA"), "WEBP", lossless=True),
        "WEBP animated": animation("WEBP"),
        "GIF": animation("GIF"),
        "GIF transparent": encode(palette, "GIF", transparency=1),
        "BMP": encode(SCENE, "BMP"),
        "BMP palette": encode(palette, "BMP"),
        "BMP 1 bit": encode(bits, "BMP"),
        "TIFF": encode(SCENE, "TIFF", **exif),
        "TIFF LZW": encode(SCENE, "TIFF", compression="tiff_lzw"),
        "TIFF JPEG": encode(SCENE, "TIFF", compression="jpeg"),
        "TIFF fax": encode(bits, "TIFF", compression="group4"),
        "TIFF palette": encode(palette, "TIFF"),
        "TIFF big": encode(SCENE, "TIFF", big_tiff=True),
    }


SPECIMENS = tuple(specimens())
CUTS = 40
FLIPS = 250


@pytest.fixture(scope="module")
def specimen_bytes() -> dict[str, bytes]:
    """The specimens, encoded once."""
    return specimens()


def outcome(data: bytes) -> type[ImageError] | None:
    """The error class that the data gives, or None where it gives pixels; any other exception is the test's failure."""
    try:
        pixels = prepare(data, SMALL)
    except ImageError as error:
        message, error_class = str(error), type(error)
    else:
        assert pixels.shape == (8, 8, 3)
        assert pixels.dtype == np.uint8
        return None
    assert message
    assert " at 0x" not in message  # no object's address
    return error_class


class TestDamage:
    @pytest.mark.parametrize(
        "data", [b"", b"\0", b"not an image", b"<svg></svg>", b"%PDF-1.7", b"BM", b"BMW is a car maker", bytes(1000)]
    )
    def test_what_is_no_image_is_said_to_be_none(self, data: bytes) -> None:
        """Bytes without an image's signature are a NotAnImageError that lists what may be sent."""
        with pytest.raises(NotAnImageError, match="JPEG, PNG, WEBP, GIF, BMP, TIFF"):
            prepare(data, SMALL)

    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"avif"])
    def test_heic_is_a_kind_that_we_do_not_decode(self, brand: bytes) -> None:
        """HEIC and AVIF are recognised, and refused with the advice to convert them."""
        with pytest.raises(ImageUnsupportedError, match="convert to one of JPEG"):
            prepare(b"\0\0\0\x18ftyp" + brand + bytes(100), SMALL)

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_a_cut_image_is_truncated_or_corrupt(self, kind: str, specimen_bytes: dict[str, bytes]) -> None:
        """An image cut at any length is refused with an ImageError, or decodes where only its end's trimmings are missing."""
        data = specimen_bytes[kind]
        found = {length: outcome(data[:length]) for length in {*range(32), *range(32, len(data), max(1, len(data) // CUTS))}}
        assert found[0] is NotAnImageError
        assert set(found.values()) <= {NotAnImageError, ImageTruncatedError, ImageCorruptError, None}
        pixels_start_after = 20  # a header alone is never a picture
        assert all(error is not None for length, error in found.items() if length <= pixels_start_after)

    @pytest.mark.parametrize(
        ("image_format", "header"), [("PNG", 33), ("JPEG", 20), ("GIF", 13), ("BMP", 54), ("WEBP", 30), ("TIFF", 8)]
    )
    def test_a_header_alone_is_truncated_or_corrupt(self, image_format: str, header: int) -> None:
        """A whole header with nothing behind it is an ImageTruncatedError or an ImageCorruptError."""
        assert outcome(encode(SCENE, image_format)[:header]) in {ImageTruncatedError, ImageCorruptError}

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
    def test_half_an_image_is_truncated(self, image_format: str) -> None:
        """Half of a picture that is all noise is said to be truncated, or at least corrupt."""
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        data = encode(noise, image_format)
        assert outcome(data[: len(data) // 2]) in {ImageTruncatedError, ImageCorruptError}

    def test_a_signature_with_another_formats_data_is_refused(self, specimen_bytes: dict[str, bytes]) -> None:
        """The first bytes of one format before the data of each other are an ImageError."""
        for head, tail in itertools.product(specimen_bytes.values(), repeat=2):
            if sniff(head) != sniff(tail):
                assert outcome(head[:8] + tail[8:]) is not None

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_flipped_bytes_never_raise_anything_else(self, kind: str, specimen_bytes: dict[str, bytes]) -> None:
        """Whatever bytes are changed in a valid image, it gives pixels of the right shape or an ImageError."""
        generator = np.random.default_rng(SPECIMENS.index(kind))
        data = specimen_bytes[kind]
        for _ in range(FLIPS):
            damaged = bytearray(data)
            reach = len(data) if generator.random() < 0.5 else min(len(data), 200)  # headers break more than pixels
            for place in generator.integers(0, reach, generator.integers(1, 5)):
                damaged[place] = generator.integers(0, 256)
            outcome(bytes(damaged))

    @given(
        data=st.binary(max_size=200),
        head=st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+", b"BM"]),
    )
    def test_garbage_behind_a_signature_is_refused(self, head: bytes, data: bytes) -> None:
        """Any bytes behind a real signature are an ImageError, or by a great chance an image."""
        outcome(head + data)


def test_a_jpeg_of_countless_scans_is_refused_by_its_header() -> None:
    """A dozen bytes a scan, and each costs a look at all pixels: 20 kB would take seconds."""
    data = encode(scene(1200, 900), "JPEG", progressive=True)
    assert prepare(data, SMALL).shape == (8, 8, 3)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageCorruptError, match="scans of its 1200x900 pixels"):
        prepare(data[:-2] + data[last:-2] * 2000 + data[-2:], SMALL)


def test_a_png_of_countless_chunks_is_refused_by_its_header() -> None:
    """Every chunk before the pixels may inflate to a megabyte; no real image has hundreds."""
    data = encode(Image.new("RGB", (4, 4)), "PNG")
    chunk = png_chunk(b"teSt", b"")
    few, many = (data[:33] + chunk * count + data[33:] for count in (100, 300))
    spec = Preprocessing(resize=4, crop_height=4, crop_width=4)
    assert prepare(few, spec).shape == (4, 4, 3)
    with pytest.raises(ImageCorruptError, match="chunks before its pixels"):
        prepare(many, spec)


def test_premultiplied_grey_is_converted() -> None:
    """TIFF's mode La, which Pillow converts to no other mode but LA."""
    image = Image.new("LA", (3, 3), (200, 255)).convert("La")
    assert preprocessing.to_rgb(image, (0, 0, 0)).getpixel((1, 1)) == (200, 200, 200)


@pytest.mark.parametrize(("kind", "kept"), [("PNG", 20), ("PNG", 40), ("WEBP", 30), ("WEBP", -1)])
def test_what_was_cut_is_called_truncated(kind: str, kept: int) -> None:
    """Also where Pillow reads the missing bytes while it opens the image."""
    data = encode(Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)), kind)
    with pytest.raises(ImageTruncatedError):
        prepare(data[:kept], Preprocessing(resize=4, crop_height=4, crop_width=4))
