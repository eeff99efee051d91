"""Bytes to pixels: whatever a stranger may send instead of an image."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from store_factory import animation, encode, oriented, scene

from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTruncatedError,
    ImageUnsupportedError,
    NotAnImageError,
)
from model_store.heif import HEIF
from model_store.image_header import FORMATS, sniff
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

SCENE = scene(24, 16)
SMALL = Preprocessing(resize=8, crop_height=8, crop_width=8)


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
        "AVIF": encode(SCENE, "AVIF"),
        "AVIF alpha": encode(SCENE.convert("RGBA"), "AVIF"),
        **({"HEIC alpha": encode(SCENE.convert("RGBA"), "HEIF")} if HEIF in FORMATS else {}),
    }


SPECIMENS = tuple(specimens())
CUTS = 40
FLIPS = 250


@pytest.fixture(scope="module")
def specimen_bytes() -> dict[str, bytes]:
    """The specimens, encoded once."""
    return specimens()


def outcome(data: bytes) -> type[ImageError] | None:
    """The error class for the data, or None if it decodes."""
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
        "data",
        [
            b"",
            b"\0",
            b"not an image",
            b"<svg></svg>",
            b"%PDF-1.7",
            b"BM",
            b"BMW is a car maker",
            bytes(1000),
        ],
    )
    def test_what_is_no_image_is_said_to_be_none(self, data: bytes) -> None:
        """Bytes without an image's signature are a NotAnImageError that lists what may be sent."""
        with pytest.raises(NotAnImageError, match=", ".join(FORMATS)):
            prepare(data, SMALL)

    @pytest.mark.usefixtures("without_heif")
    @pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1"])
    def test_heic_is_not_decoded_without_the_extra(self, brand: bytes) -> None:
        """HEIC is recognised, and refused with the advice to convert it."""
        with pytest.raises(ImageUnsupportedError, match="JPEG"):
            prepare(b"\0\0\0\x18ftyp" + brand + bytes(100), SMALL)

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_a_cut_image_is_truncated_or_corrupt(
        self, kind: str, specimen_bytes: dict[str, bytes]
    ) -> None:
        """ImageError, or pixels if only the end of the file is missing."""
        data = specimen_bytes[kind]
        found = {
            length: outcome(data[:length])
            for length in {*range(32), *range(32, len(data), max(1, len(data) // CUTS))}
        }
        assert found[0] is NotAnImageError
        assert set(found.values()) <= {
            NotAnImageError,
            ImageTruncatedError,
            ImageCorruptError,
            None,
        }
        pixels_start_after = 20  # a header alone is never a picture
        assert all(
            error is not None for length, error in found.items() if length <= pixels_start_after
        )

    @pytest.mark.parametrize(
        ("image_format", "header"),
        [("PNG", 33), ("JPEG", 20), ("GIF", 13), ("BMP", 54), ("WEBP", 30), ("TIFF", 8)],
    )
    def test_a_header_alone_is_truncated_or_corrupt(self, image_format: str, header: int) -> None:
        """ImageTruncatedError or ImageCorruptError."""
        assert outcome(encode(SCENE, image_format)[:header]) in {
            ImageTruncatedError,
            ImageCorruptError,
        }

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
    def test_half_an_image_is_truncated(self, image_format: str) -> None:
        """Half of a picture that is all noise is said to be truncated, or at least corrupt."""
        noise = Image.fromarray(
            np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        )
        data = encode(noise, image_format)
        assert outcome(data[: len(data) // 2]) in {ImageTruncatedError, ImageCorruptError}

    def test_a_signature_with_another_formats_data_is_refused(
        self, specimen_bytes: dict[str, bytes]
    ) -> None:
        """The first bytes of one format before the data of each other are an ImageError."""
        for head, tail in itertools.product(specimen_bytes.values(), repeat=2):
            if sniff(head) != sniff(tail):
                assert outcome(head[:8] + tail[8:]) is not None

    @pytest.mark.parametrize("kind", SPECIMENS)
    def test_flipped_bytes_never_raise_anything_else(
        self, kind: str, specimen_bytes: dict[str, bytes], capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Pixels of the right shape, or ImageError. No decoder prints anything."""
        generator = np.random.default_rng(SPECIMENS.index(kind))
        data = specimen_bytes[kind]
        for _ in range(FLIPS):
            damaged = bytearray(data)
            reach = (
                len(data) if generator.random() < 0.5 else min(len(data), 200)
            )  # headers break more than pixels
            for place in generator.integers(0, reach, generator.integers(1, 5)):
                damaged[place] = generator.integers(0, 256)
            outcome(bytes(damaged))
        assert capfd.readouterr().err == ""

    @given(
        data=st.binary(max_size=200),
        head=st.sampled_from(
            [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0+", b"BM"]
        ),
    )
    def test_garbage_behind_a_signature_is_refused(self, head: bytes, data: bytes) -> None:
        """Any bytes behind a real signature are an ImageError, or by a great chance an image."""
        outcome(head + data)


@pytest.mark.parametrize(("kind", "kept"), [("PNG", 20), ("PNG", 40), ("WEBP", 30), ("WEBP", -1)])
def test_what_was_cut_is_called_truncated(kind: str, kept: int) -> None:
    """Also where Pillow reads the missing bytes while it opens the image."""
    data = encode(Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3)), kind)
    with pytest.raises(ImageTruncatedError):
        prepare(data[:kept], Preprocessing(resize=4, crop_height=4, crop_width=4))
