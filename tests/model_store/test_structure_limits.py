"""Each part of an image file is counted: a file at a limit passes, and one part more does not."""

import struct
from collections.abc import Callable

import pytest
from image_bombs import bmp_run_length, gif_with, small, tiff
from pictures import png_chunk

from model_store import image_structure
from model_store.errors import ImageTooExpensiveError
from model_store.image_header import sniff
from model_store.image_structure import check_structure

LIMIT = 40
KIBIBYTES_64 = 64 * 1024


def jpeg(part: bytes, count: int) -> bytes:
    data = small("JPEG")
    return data[:20] + part * count + data[20:]  # after the JFIF segment


def png(part: bytes, count: int) -> bytes:
    data = small("PNG")
    return data[:33] + part * count + data[33:]


def gif(part: bytes, count: int) -> bytes:
    return gif_with(part, len(part) * count)


def tiff_entries(count: int) -> bytes:
    return tiff({50_000 + number: (1, 1, 0) for number in range(count)})


def tiff_strips(tag: int, count: int) -> bytes:
    return tiff({tag: (1, count, 0)})


EXIF = b"\xff\xe1\0\x0aExif\0\0AB"
COUNTED: list[tuple[str, int, int, Callable[[int], bytes]]] = [
    ("MAX_JPEG_SEGMENTS", 1, 8, lambda count: jpeg(b"\xff\xe5\0\4ab", count)),
    ("MAX_JPEG_SEGMENTS", 1, 8, lambda count: jpeg(b"\xff\x01", count)),  # without a length
    ("MAX_EXIF_SEGMENTS", 1, 0, lambda count: jpeg(EXIF, count)),
    ("MAX_JPEG_FILLER", 1, 0, lambda count: jpeg(b"\xff", count)),
    ("MAX_JPEG_FILLER", 1, 0, lambda count: jpeg(b"\xff\0", count)),
    ("MAX_JPEG_FILLER", 1, 0, lambda count: jpeg(b"a", count)),
    ("MAX_PNG_CHUNKS", 1, 1, lambda count: png(png_chunk(b"teSt", b"abc"), count)),
    *(
        ("MAX_PNG_DATA_CHUNKS", 1, 1, lambda count, kind=kind: png(png_chunk(kind, b""), count))
        for kind in (b"IDAT", b"fdAT", b"fcTL")
    ),
    ("MAX_GIF_BLOCKS", 3, 0, lambda count: gif(b"!\xf9\2ab\0", count)),
    ("MAX_GIF_BLOCKS", 2, 0, lambda count: gif(b"!\xf9\0", count)),
    ("MAX_GIF_BLOCKS", 1, 0, lambda count: gif(b"\0", count)),
    ("MAX_GIF_COMMENT_BLOCKS", 2, 0, lambda count: gif(b"!\xfe\2ab\0", count)),
    ("MAX_TIFF_ENTRIES", 1, 0, tiff_entries),
    *(
        ("MAX_TIFF_STRIPS", 1, 0, lambda count, tag=tag: tiff_strips(tag, count))
        for tag in (273, 279, 324, 325)
    ),
]
"""A limit, how much one part counts, what the rest of the file counts, and the file."""


@pytest.mark.parametrize(("limit", "each", "own", "make"), COUNTED)
def test_parts_are_counted(
    limit: str,
    each: int,
    own: int,
    make: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is lowered, so that the files are small."""
    kind = sniff(make(LIMIT))
    assert kind is not None
    monkeypatch.setattr(image_structure, limit, LIMIT * each + own)
    check_structure(kind, make(LIMIT))
    with pytest.raises(ImageTooExpensiveError):
        check_structure(kind, make(LIMIT + 1))
    monkeypatch.setattr(image_structure, limit, LIMIT * each + own - 1)
    with pytest.raises(ImageTooExpensiveError):
        check_structure(kind, make(LIMIT))


def test_png_chunk_that_is_cut_in_its_header_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes eight bytes to know its kind."""
    data = png(png_chunk(b"teSt", b"abc"), LIMIT)[:-12]
    monkeypatch.setattr(image_structure, "MAX_PNG_CHUNKS", LIMIT + 1)
    for cut in range(8):
        check_structure("PNG", data + bytes(cut))
    with pytest.raises(ImageTooExpensiveError):
        check_structure("PNG", data + bytes(8))


TIFF_TYPE_BYTES = {
    **dict.fromkeys((1, 2, 6, 7, 99), 1),  # BYTE, ASCII, SBYTE, UNDEFINED; an unknown type
    **dict.fromkeys((3, 8), 2),  # SHORT, SSHORT
    **dict.fromkeys((4, 9, 11, 13), 4),  # LONG, SLONG, FLOAT, IFD
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),  # RATIONAL, DOUBLE, LONG8, …
}


@pytest.mark.parametrize("kind", TIFF_TYPE_BYTES)
def test_values_of_a_tiff_are_at_most_64_kibibytes_longer_than_the_file(kind: int) -> None:
    """Values that overlap would be read again for every entry."""
    allowed = (len(tiff({})) + KIBIBYTES_64) // TIFF_TYPE_BYTES[kind]
    check_structure("TIFF", tiff({50_000: (kind, allowed, 0)}))
    with pytest.raises(ImageTooExpensiveError):
        check_structure("TIFF", tiff({50_000: (kind, allowed + 1, 0)}))


@pytest.mark.parametrize("kind", [3, 4])
def test_tile_may_be_four_times_as_large_as_the_image(kind: int) -> None:
    """A large image may have large tiles; the sizes may be of either type."""
    sizes = dict.fromkeys((256, 257), (kind, 1, 1000)) | {322: (kind, 1, 2000)}
    check_structure("TIFF", tiff(sizes | {323: (kind, 1, 2000)}))
    with pytest.raises(ImageTooExpensiveError):
        check_structure("TIFF", tiff(sizes | {323: (kind, 1, 2001)}))


def test_tags_of_a_tiff_may_be_in_any_order() -> None:
    """The size of the tiles is checked against that of the image after all of them are read."""
    entries = [(322, 4, 1, 2000), (323, 4, 1, 2000), (257, 4, 1, 1000), (256, 4, 1, 1000)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    check_structure("TIFF", b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory)


@pytest.mark.parametrize("compression", [0, 1, 2])
@pytest.mark.parametrize(("width", "height"), [(32, 16), (32, -16)], ids=["up", "down"])
def test_run_length_bmp_is_at_most_64_kibibytes_longer_than_its_pixels(
    compression: int, width: int, height: int
) -> None:
    """Four bytes for each pixel; other BMPs have no such limit."""
    data = bytearray(bmp_run_length(width, height, b""))
    data[30] = compression
    allowed = KIBIBYTES_64 + 4 * 32 * 16 - len(data)
    check_structure("BMP", bytes(data) + bytes(allowed))
    if compression:
        with pytest.raises(ImageTooExpensiveError):
            check_structure("BMP", bytes(data) + bytes(allowed + 1))
    else:
        check_structure("BMP", bytes(data) + bytes(allowed + 1))


def test_old_bmp_header_has_no_compression() -> None:
    """Its 12 bytes end before the place of one."""
    data = bytearray(bmp_run_length(10_000, 10_000, b""))
    with pytest.raises(ImageTooExpensiveError):
        check_structure("BMP", bytes(data))
    data[14] = 12
    check_structure("BMP", bytes(data))


def test_gif_colour_table_is_skipped() -> None:
    """Its bytes may look like extensions."""
    data = bytearray(small("GIF"))
    colours = 2 ** ((data[10] & 7) + 1)
    data[13 : 13 + 3 * colours] = b"!\xfe\1" * colours
    check_structure("GIF", bytes(data))
