"""Known images: the images that weights were trained on, here or in the runs that they come from.

A model must not be tested on images that its initial weights were trained on, and no comparison
may use images that one of both models was trained on. Each version therefore has
`known_images.npy`: for each known image, the first 8 bytes of the SHA-256 of its pixels, uint64,
sorted. Validation images that only selected the epoch are not in it.

In the directory of a run, `known_images.npy` lists the known images of its initial weights, and
`trained_images.npy` lists those that the version of the run will have.
"""

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import MANIFEST_NAME
from model_store.sealed_model import open_files
from model_store.version import Version
from training.data.image_set import Indices
from training.data.scan import Scan
from training.run.directory import RunDirectory, damaged_file_error

KNOWN_IMAGES_FILE: Final = "known_images.npy"
TRAINED_IMAGES_FILE: Final = "trained_images.npy"
NOT_RECORDED: Final = (
    "its training images are not recorded; if some of them are in this data, the test accuracy "
    "is too high"
)

KnownImages = NDArray[np.uint64]


def encode_known_images(scanned: Scan, trained_on: Indices, earlier: KnownImages) -> bytes:
    """Return the content of `known_images.npy`: these images and the earlier ones."""
    buffer = io.BytesIO()
    known = np.union1d(_short_digests(scanned, trained_on), earlier)
    np.save(buffer, known, allow_pickle=False)
    return buffer.getvalue()


def read_known_images(run: RunDirectory) -> KnownImages:
    """Return the images that the initial weights of a run know; empty if none are recorded."""
    return _read(run.path / KNOWN_IMAGES_FILE) if run.has(KNOWN_IMAGES_FILE) else _no_images()


def read_version_known_images(version: Version) -> KnownImages | None:
    """Return the images that a version knows; None if they are not recorded.

    Imports do not record them, nor do versions that were published before Resident did.
    """
    if not records_known_images(version):
        return None
    with open_files(version, [KNOWN_IMAGES_FILE]) as paths:
        return _read(paths[KNOWN_IMAGES_FILE])


def records_known_images(version: Version) -> bool:
    return KNOWN_IMAGES_FILE in {entry.path for entry in version.manifest.files}


def known_images_of_weights(path: Path) -> Path | None:
    """Return the record beside a weight file of a run or of a version; None if there is none."""
    own = path.parent / TRAINED_IMAGES_FILE
    sealed = path.parent / KNOWN_IMAGES_FILE
    if own.exists():
        return own
    return sealed if sealed.exists() and (path.parent / MANIFEST_NAME).exists() else None


def known_digests(scanned: Scan, known: KnownImages) -> set[str]:
    """Return the digests of the scanned images that are known."""
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


def _no_images() -> KnownImages:
    return np.empty(0, np.uint64)


def _read(path: Path) -> KnownImages:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise damaged_file_error(path, error) from None
