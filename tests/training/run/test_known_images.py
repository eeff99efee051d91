"""Known images: what a version was trained on, and what the versions before it were."""

import io
from types import SimpleNamespace

import numpy as np

from training.run.known_images import encode_known_images, is_known_image, known_digests

DIGESTS = [f"{number:016x}" + "ab" * 24 for number in (5, 3, 9, 2**63)]
SCANNED = SimpleNamespace(facts=[SimpleNamespace(digest=digest) for digest in DIGESTS])


def test_images_of_earlier_versions_stay_known() -> None:
    """The file has the first 8 bytes of each digest, sorted and without duplicates."""
    content = encode_known_images(SCANNED, np.array([0, 3]), np.array([1, 5], np.uint64))
    known = np.load(io.BytesIO(content), allow_pickle=False)
    assert known.dtype == np.uint64
    assert known.tolist() == [1, 5, 2**63]


def test_known_images_are_found_again() -> None:
    """By index and by digest."""
    known = np.array([9, 2**63], np.uint64)
    found = is_known_image(SCANNED, np.array([3, 0, 2]), known)  # type: ignore[arg-type]
    assert found.tolist() == [True, False, True]
    assert known_digests(SCANNED, known) == {DIGESTS[2], DIGESTS[3]}  # type: ignore[arg-type]
