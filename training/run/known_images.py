"""Known images: the training images of a version and of the versions that it retrains.

A retrained model must not be tested on images that its predecessor was trained on. Each version
that can be retrained therefore has `known_images.npy`: for each known image, the first 8 bytes of
the SHA-256 of its pixels, uint64, sorted. Validation images that only selected the epoch are not
in it.
"""

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.version import Version
from training.data.image_set import Indices
from training.data.scan import Scan
from training.run.directory import RunDirectory, damaged

KNOWN_IMAGES_FILE: Final = "known_images.npy"

KnownImages = NDArray[np.uint64]


def encode_known_images(scanned: Scan, trained_on: Indices, earlier: KnownImages) -> bytes:
    """Return the content of `known_images.npy`: these images and the earlier ones."""
    buffer = io.BytesIO()
    known = np.union1d(_short_digests(scanned, trained_on), earlier)
    np.save(buffer, known, allow_pickle=False)
    return buffer.getvalue()


def read_known_images(run: RunDirectory) -> KnownImages:
    """Return the images that the previous version knows; empty if the run retrains none."""
    return _read(run.path / KNOWN_IMAGES_FILE) if run.has(KNOWN_IMAGES_FILE) else _none()


def read_version_known_images(version: Version) -> KnownImages:
    """Return the images that a version knows; empty if it has no such file."""
    kept = KNOWN_IMAGES_FILE in {entry.path for entry in version.manifest.files}
    return _read(version.path(KNOWN_IMAGES_FILE)) if kept else _none()


def known_digests(scanned: Scan, known: KnownImages) -> set[str]:
    lookup = set(known.tolist())
    return {
        fact.digest for fact in scanned.facts if fact.digest and short_digest(fact.digest) in lookup
    }


def is_known_image(scanned: Scan, indices: Indices, known: KnownImages) -> NDArray[np.bool_]:
    """Return bool `[n]`: whether each of these images is known."""
    return np.isin(_short_digests(scanned, indices), known)


def short_digest(digest: str) -> int:
    """Return the first 8 bytes of a hex digest as a big-endian integer."""
    return int(digest[:16], 16)


def _short_digests(scanned: Scan, indices: Indices) -> KnownImages:
    return np.array([short_digest(scanned.facts[index].digest) for index in indices], np.uint64)


def _none() -> KnownImages:
    return np.empty(0, np.uint64)


def _read(path: Path) -> KnownImages:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from None
