"""Bytes to pixels: every format and mode, orientation and geometry."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from store_factory import animation, encode, oriented, png, scene

from model_store import preprocessing
from model_store.errors import (
    ImageUnsupportedError,
    NotAnImageError,
)
from model_store.geometry import resized_size
from model_store.image_header import FORMATS, sniff
from model_store.manifest import Interpolation, Preprocessing
from model_store.preprocessing import Pixels, crop, prepare

SCENE = scene(24, 16)
SMALL = Preprocessing(resize=8, crop_height=8, crop_width=8)
PINK = (255, 0, 128)
RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def as_it_is(
    image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)
) -> Preprocessing:
    """The preprocessing that neither resizes nor crops this image."""
    return Preprocessing(
        resize_mode="exact",
        resize=1,
        crop_height=image.height,
        crop_width=image.width,
        background=background,
    )


def deviation(pixels: Pixels, expected: np.ndarray) -> float:
    """The mean difference in grey levels, and no less than infinity where the shapes differ."""
    if pixels.shape != expected.shape:
        return float("inf")
    return float(np.abs(pixels.astype(int) - expected.astype(int)).mean())


class TestFormats:
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_every_format_is_decoded(self, image_format: str) -> None:
        """uint8 of the size of the crop, within the loss of the compression."""
        data = encode(SCENE, image_format)
        pixels = prepare(data, as_it_is(SCENE))
        assert sniff(data) == image_format
        assert pixels.dtype == np.uint8
        assert pixels.shape == (16, 24, 3)
        assert deviation(pixels, np.asarray(SCENE)) < (
            25 if image_format in {"JPEG", "WEBP", "GIF", "AVIF", "HEIF"} else 0.001
        )

    @pytest.mark.parametrize(
        ("image_format", "options"),
        [
            ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
            ("JPEG", {"optimize": True, "quality": 95, "subsampling": 0}),
            ("WEBP", {"lossless": True}),
            ("PNG", {"compress_level": 0}),
            *[
                ("TIFF", {"compression": kind})
                for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
            ],
            ("TIFF", {"big_tiff": True}),
        ],
    )
    def test_every_compression_is_decoded(
        self, image_format: str, options: dict[str, object]
    ) -> None:
        """The variants within a format give the same picture."""
        limit = 8 if image_format == "JPEG" else 0
        assert (
            deviation(
                prepare(encode(SCENE, image_format, **options), as_it_is(SCENE)), np.asarray(SCENE)
            )
            <= limit
        )

    @pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
    def test_of_an_animation_the_first_frame_counts(self, image_format: str) -> None:
        """Of a file with several pictures the first is taken, as if it were alone."""
        pixels = prepare(animation(image_format), as_it_is(SCENE))
        assert (
            deviation(pixels, np.asarray(SCENE))
            < 25
            < deviation(pixels, np.asarray(SCENE.rotate(180)))
        )

    def test_the_media_type_is_not_believed_over_the_bytes(self) -> None:
        """Only the first bytes count, and only `FORMATS` are tried."""
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
            assert (
                deviation(
                    prepare(encode(image, image_format), as_it_is(image)),
                    palette[np.asarray(image)],
                )
                == 0
            )

    @pytest.mark.parametrize("image_format", ["PNG", "GIF"])
    def test_a_transparent_palette_colour_shows_the_background(self, image_format: str) -> None:
        """The background replaces the transparent colour only."""
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
        mixed = palette * (alphas[:, np.newaxis] / 255) + np.array(PINK) * (
            1 - alphas[:, np.newaxis] / 255
        )
        pixels = prepare(
            encode(image, "PNG", transparency=bytes(alphas.tolist())), as_it_is(image, PINK)
        )
        assert np.abs(pixels - mixed[np.asarray(image)]).max() <= 1

    @pytest.mark.parametrize(("mode", "transparency"), [("L", 77), ("RGB", (20, 200, 90))])
    def test_a_single_colour_may_be_transparent(
        self, mode: str, transparency: int | tuple[int, ...]
    ) -> None:
        """The background replaces that colour only."""
        image = SCENE.convert(mode)
        image.paste(transparency, (0, 0, 5, 5))
        chosen = np.asarray(image) == np.array(transparency)
        chosen = chosen.all(axis=-1) if mode == "RGB" else chosen
        expected = np.where(chosen[..., np.newaxis], PINK, np.asarray(image.convert("RGB")))
        assert (
            deviation(
                prepare(encode(image, "PNG", transparency=transparency), as_it_is(image, PINK)),
                expected,
            )
            == 0
        )

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
        """Full magenta and yellow give red."""
        image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
        for data in (encode(image, "JPEG", quality=95), encode(image, "TIFF")):
            pixels = prepare(data, as_it_is(image))
            assert pixels[..., 0].min() > 240
            assert pixels[..., 1:].max() < 15

    @pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
    def test_ycbcr_becomes_rgb(self, image_format: str) -> None:
        """Luma and chroma are converted, whether by the JPEG decoder or after a TIFF's."""
        pixels = prepare(
            encode(Image.new("YCbCr", (16, 16), (76, 85, 255)), image_format),
            as_it_is(SCENE.resize((16, 16))),
        )
        assert deviation(pixels, np.full((16, 16, 3), (254, 0, 0))) < 3

    @pytest.mark.parametrize(
        ("mode", "image_format"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I;16B", "TIFF")]
    )
    def test_sixteen_bit_grey_does_not_become_white(self, mode: str, image_format: str) -> None:
        """Of 16-bit grey the high byte counts: a ramp stays a ramp, whatever the byte order."""
        values = np.linspace(0, 65535, 16 * 24).astype(np.uint16).reshape(16, 24)
        image = Image.frombytes(
            mode, (24, 16), values.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        )
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
        assert (
            deviation(prepare(png(24, 16, 16, colour_type, rows), as_it_is(SCENE)), expected) < 0.6
        )  # some round, some cut

    @pytest.mark.parametrize("mode", ["I", "F", "LAB"])
    def test_pixels_without_a_defined_range_are_refused(self, mode: str) -> None:
        """Any scaling would be a guess."""
        image = Image.new(mode, (16, 16))
        with pytest.raises(ImageUnsupportedError):
            prepare(encode(image, "TIFF"), SMALL)

    def test_a_colour_profile_changes_nothing(self) -> None:
        """Pixels are taken as they are stored, with a profile and without."""
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
        assert (
            deviation(
                prepare(encode(SCENE, "PNG", icc_profile=profile), as_it_is(SCENE)),
                np.asarray(SCENE),
            )
            == 0
        )


class TestOrientation:
    STORED: dict[
        int, Callable[[np.ndarray], np.ndarray]
    ] = {  # EXIF 2.32, tag 274: where row 0 and column 0 really are  # noqa: RUF012
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
        [
            ("JPEG", {"quality": 95, "subsampling": 0}),
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
        ],
    )
    def test_every_picture_ends_upright(
        self, image_format: str, options: dict[str, object], orientation: int
    ) -> None:
        """For all eight orientations the marked corner is where it belongs."""
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
        "exif",
        [
            b"Exif\0\0",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
            b"Exif\0\0garbage",
            b"Exif\0\0MM\0*\0\0\0\x08\0\x09",
        ],
    )
    def test_unreadable_exif_counts_as_none(self, image_format: str, exif: bytes) -> None:
        """Damaged EXIF does not make good pixels bad."""
        pixels = prepare(encode(SCENE, image_format, exif=exif), as_it_is(SCENE))
        assert deviation(pixels, np.asarray(SCENE)) < 25


class TestGeometry:
    # As torchvision: the longer side is int(resize * long / short), the crop begins at
    # int(round((side - crop) / 2.0)).
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
        """The longer side is rounded down and the crop is placed as in torchvision."""
        image = scene(*size)
        height, width = crop
        spec = Preprocessing(
            resize=resize, crop_height=height, crop_width=width, interpolation=interpolation
        )
        assert resized_size(*size, spec) == resized
        box = (*corner, corner[0] + width, corner[1] + height)
        expected = np.asarray(image.resize(resized, RESAMPLING[interpolation]).crop(box))
        assert np.array_equal(prepare(encode(image, "PNG"), spec), expected)

    @given(width=st.integers(1, 5000), height=st.integers(1, 5000), resize=st.integers(1, 512))
    def test_a_crop_always_fits(self, width: int, height: int, resize: int) -> None:
        """For any size, and the aspect ratio is kept within a pixel."""
        spec = Preprocessing(resize=resize, crop_height=resize, crop_width=resize)
        resized_width, resized_height = resized_size(width, height, spec)
        assert min(resized_width, resized_height) == resize
        assert (resized_width >= resized_height) == (
            width >= height
        ) or resized_width == resized_height
        assert abs(resized_width * min(width, height) - resize * width) <= min(width, height)

    @pytest.mark.parametrize(
        ("size", "corner"), [((24, 16), (8, 4)), ((12, 13), (2, 2)), ((14, 14), (3, 3))]
    )
    @pytest.mark.parametrize("offset", [0, 1])
    def test_crop_may_be_shifted(
        self, size: tuple[int, int], corner: tuple[int, int], offset: int
    ) -> None:
        """To the right and down, as the gates do to see what a wrong crop costs."""
        image = scene(*size)
        left, top = (side + offset for side in corner)
        expected = np.asarray(image)[top : top + 8, left : left + 8]
        assert np.array_equal(crop(image, SMALL, offset), expected)

    def test_shifted_crop_of_an_image_of_its_size_has_a_black_edge(self) -> None:
        """Nothing is beyond the image."""
        image = Image.new("RGB", (8, 8), "white")
        assert (crop(image, SMALL) == 255).all()
        shifted = crop(image, SMALL, 2)
        assert (shifted[:6, :6] == 255).all()
        assert not shifted[6:].any()
        assert not shifted[:, 6:].any()

    def test_exact_squeezes_into_the_crops_size(self) -> None:
        """Whatever the aspect ratio, nothing is cut off."""
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
        assert np.array_equal(
            prepare(encode(stored, "PNG", **oriented(stored, 6)), spec),
            prepare(encode(SCENE, "PNG"), spec),
        )


def test_premultiplied_grey_is_converted() -> None:
    """TIFF's mode La, which Pillow converts to no other mode but LA."""
    image = Image.new("LA", (3, 3), (200, 255)).convert("La")
    assert preprocessing.to_rgb(image, (0, 0, 0)).getpixel((1, 1)) == (200, 200, 200)
