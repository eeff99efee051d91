"""The markers of a JPEG, read without a decoder."""

import pytest
from image_bombs import small
from pictures import encoded, picture

from model_store import jpeg_markers
from model_store.errors import ImageCorruptError
from model_store.jpeg_markers import Frame, count_scans, frame_header, lacks_only_end

DATA = small("JPEG")
FRAME = DATA.index(b"\xff\xc0")
PROGRESSIVE = encoded(picture(1, 32, 32), "JPEG", progressive=True)
SCANS = [i for i in range(len(PROGRESSIVE)) if PROGRESSIVE[i : i + 2] == b"\xff\xda"]
NO_FRAMES = (0xC4, 0xC8, 0xCC)
"""Huffman tables, an extension, and arithmetic conditioning (ITU-T T.81, table B.1)."""
DECODED = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
"""Sequential and progressive, by Huffman or arithmetic coding; not lossless or hierarchical."""


@pytest.mark.parametrize("marker", range(0xC0, 0xD0))
def test_frame_header_is_found_by_its_marker(marker: int) -> None:
    """libjpeg decodes some kinds of frames only."""
    data = bytearray(DATA)
    data[FRAME + 1], data[FRAME + 4], data[FRAME + 9] = marker, 12, 4
    expected = None if marker in NO_FRAMES else Frame(12, 4, marker in DECODED)
    assert frame_header(bytes(data)) == expected


@pytest.mark.parametrize("padding", range(8))
@pytest.mark.parametrize("length", [30, 300])
def test_markers_inside_a_segment_are_its_content(padding: int, length: int) -> None:
    """Wherever it begins, and however long it is."""
    content = b"\xff\xc2\0\x11\x0c".ljust(length - 2, b"\x07")
    segment = b"\xff" * padding + b"\xff\xfe" + length.to_bytes(2, "big") + content
    assert frame_header(DATA[:2] + segment + DATA[2:]) == frame_header(DATA) == Frame(8, 3, True)


def test_frame_header_that_is_cut_is_none() -> None:
    """Its last byte of interest is the number of components."""
    for length in range(len(DATA)):
        assert (frame_header(DATA[:length]) is None) == (length < FRAME + 10)


def test_many_scans_are_counted_exactly() -> None:
    """Up to twenty, bytes like those of scans may count too; they cost little."""
    own = DATA.count(b"\xff\xda")
    assert own == 1
    assert count_scans(DATA + b"\xff\xda" * 19) == 20
    assert count_scans(DATA + b"\xff\xda" * 20) == 1


def test_number_of_markers_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with exactly so many is read."""
    markers = sum(1 for _ in jpeg_markers._markers(DATA))
    monkeypatch.setattr(jpeg_markers, "MAX_MARKERS", markers + 1)
    assert count_scans(DATA, enough=0) == 1
    monkeypatch.setattr(jpeg_markers, "MAX_MARKERS", markers)
    with pytest.raises(ImageCorruptError):
        count_scans(DATA, enough=0)


def test_progressive_image_lacks_only_its_end_after_its_last_scan_began() -> None:
    """Not if a scan is missing, and not if the end is there."""
    assert len(SCANS) > 4
    assert not lacks_only_end(PROGRESSIVE, 3)
    assert lacks_only_end(PROGRESSIVE[:-2], 3)
    assert not lacks_only_end(PROGRESSIVE[:-2], 4)
    for start in SCANS:
        assert not lacks_only_end(PROGRESSIVE[:start], 3)
    assert not lacks_only_end(b"\xff\xd8", 0)


def test_end_in_a_segment_between_scans_is_not_that_of_the_image() -> None:
    """A comment may contain anything."""
    comment = b"\xff\xfe\0\x04\xff\xd9"
    for start in SCANS:
        data = PROGRESSIVE[:start] + comment + PROGRESSIVE[start:]
        assert lacks_only_end(data[:-2], 3)
        assert not lacks_only_end(data, 3)


def test_image_without_a_scan_in_its_middle_is_incomplete() -> None:
    """Each scan adds coefficients or bits of some components."""
    ends = [*SCANS[1:], len(PROGRESSIVE) - 2]
    for start, end in zip(SCANS, ends, strict=True):
        without = PROGRESSIVE[:start] + PROGRESSIVE[end:-2]
        refines = PROGRESSIVE[start + 7 + 2 * PROGRESSIVE[start + 4]] & 15 > 0
        assert lacks_only_end(without, 3) == refines  # a later scan has the last bits
