"""The markers of a JPEG (ITU-T T.81, annex B): its frame, its scans and its end."""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from model_store.errors import ImageCorruptError

END: Final = b"\xff\xd9"
MAX_MARKERS: Final = 4096
_SCAN: Final = b"\xff\xda"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES: Final = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
_MARKER: Final = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""A marker, except stuffed bytes and restart markers, which belong to a scan's data."""


class Frame(NamedTuple):
    """A frame header.

    Attributes:
        bits: Bits per sample.
        components: Number of components.
        is_decoded: Whether libjpeg can decode the frame: not if it is lossless or hierarchical.
    """

    bits: int
    components: int
    is_decoded: bool


def frame_header(data: bytes) -> Frame | None:
    """The frame header, or None if it is missing or incomplete."""
    for marker, position in _markers(data):
        if marker in _FRAMES:
            if position + 10 > len(data):
                return None
            return Frame(data[position + 4], data[position + 9], marker in _DECODED_FRAMES)
    return None


def count_scans(data: bytes, enough: int = 20) -> int:
    """Number of scans of a JPEG. Each costs a pass over all pixels. Most files have at most ten.

    Args:
        data: The file. Data after the end of the image does not count.
        enough: Up to this number, a fast upper bound is returned instead of the exact count.

    Raises:
        ImageCorruptError: There are more than `MAX_MARKERS` markers.
    """
    bound = data.count(_SCAN)
    if bound <= enough:
        return bound
    return sum(marker == _START_OF_SCAN for marker, _ in _markers(data))


def lacks_only_end(data: bytes, components: int) -> bool:
    """Whether every scan is present and the end marker is missing. The last scan may be cut off."""
    scans = [position for marker, position in _markers(data) if marker == _START_OF_SCAN]
    if not scans or data.find(END, scans[-1]) >= 0:
        return False
    coefficients: dict[int, set[int]] = {}
    for scan in scans:
        selectors = scan + 5 + 2 * data[scan + 4]  # where the coefficients begin
        first, last, approximation = data[selectors : selectors + 3]
        if approximation & 15 == 0:  # this scan has their last bits
            for component in data[scan + 5 : selectors : 2]:
                coefficients.setdefault(component, set()).update(range(first, last + 1))
    is_complete = all(found >= set(range(64)) for found in coefficients.values())
    return is_complete and len(coefficients) == components


def _markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker and its position, up to the end of the image."""
    position = 2
    for _ in range(MAX_MARKERS):
        found = _MARKER.search(data, position)
        if found is None or found[1][0] == _END_OF_IMAGE:
            return
        start = found.end() - 2
        yield found[1][0], start
        position = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    raise ImageCorruptError(f"the JPEG has more than {MAX_MARKERS} segments")
