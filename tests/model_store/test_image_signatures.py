"""The format of an image by its first bytes, and what is said of other formats."""

import pytest
from store_factory import encode, scene

from model_store.errors import (
    ImageCorruptError,
    ImageTruncatedError,
    ImageUnsupportedError,
    NotAnImageError,
)
from model_store.image_header import decode_error_reason, sniff
from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare

SPEC = Preprocessing(resize=8, crop_height=8, crop_width=8)
BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)


@pytest.mark.parametrize("size", [*BMP_HEADER_BYTES, 11, 13, 39, 41, 100, 125, 40 * 256])
def test_bmp_has_a_header_of_a_known_size(size: int) -> None:
    """`BM` alone may begin any text."""
    data = b"BM" + bytes(12) + size.to_bytes(4, "little")
    assert sniff(data) == ("BMP" if size in BMP_HEADER_BYTES else None)
    assert sniff(data[:-1]) is None


def test_webp_has_its_name_behind_the_size() -> None:
    """`RIFF` begins sounds and videos as well."""
    data = encode(scene(), "WEBP")
    assert sniff(data[:12]) == "WEBP"
    for position in (0, 8, 11):
        other = bytearray(data)
        other[position] ^= 1
        assert sniff(bytes(other)) is None


def container(*brands: bytes, size: int | None = None, name: bytes = b"ftyp") -> bytes:
    """The first box of an ISO media file: the main brand, its version, and compatible brands."""
    main, *compatible = brands
    body = name + main + bytes(4) + b"".join(compatible)
    return (len(body) + 4 if size is None else size).to_bytes(4, "big") + body


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize(
    ("data", "error"),
    [
        (container(b"heic"), ImageUnsupportedError),
        (container(b"mp42", b"heic"), ImageUnsupportedError),
        (container(b"mp42", b"heic", b"isom"), ImageUnsupportedError),
        (container(b"mp42", b"isom", b"mif1"), ImageUnsupportedError),
        (container(b"mp42", *[b"isom"] * 59, b"heic"), ImageUnsupportedError),
        (container(b"mp42", *[b"isom"] * 60, b"heic"), NotAnImageError),  # behind 256 bytes
        (container(b"mp42", b"heic", size=19), ImageUnsupportedError),
        (container(b"mp42", b"heic", size=16), NotAnImageError),
        (container(b"mp42", b"xxhe", b"icxx"), NotAnImageError),
        (container(b"mp42", b"isom"), NotAnImageError),
        (container(b"heic", name=b"free"), NotAnImageError),
    ],
)
def test_brands_are_those_in_the_first_box(data: bytes, error: type[Exception]) -> None:
    """The main brand or a compatible one."""
    with pytest.raises(error):
        prepare(data, SPEC)


@pytest.mark.parametrize("brand", [b"avif", b"avis"])
def test_avif_is_known_by_any_brand(brand: bytes) -> None:
    """Stills and animations."""
    for data in (container(brand), container(b"mif1", brand)):
        assert sniff(data) == "AVIF"


def test_webp_of_its_announced_length_is_damaged_and_not_cut() -> None:
    """It is truncated if it is shorter."""
    data = bytearray(encode(scene(), "WEBP", lossless=True))
    data[20] ^= 0xFF  # the signature of the lossless pixels
    with pytest.raises(ImageCorruptError):
        prepare(bytes(data), SPEC)
    with pytest.raises(ImageTruncatedError):
        prepare(bytes(data[:-1]), SPEC)


def test_reason_has_no_addresses_and_is_short() -> None:
    """Pillow's messages may contain objects."""
    assert decode_error_reason(ValueError("bad <object at 0x7f>")) == "ValueError: bad"
    assert decode_error_reason(ValueError("a < b < c")) == "ValueError: a"
    assert len(decode_error_reason(ValueError("x" * 500))) == 120
