"""Scans of data sets kept between runs, in `scans/` of the host's cache directory."""

import json
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from model_store.host_cache import (
    build_entry,
    default_host_cache,
    mark_used,
    open_host_cache,
    prune_entries,
    remove_entry,
)
from model_store.preprocessing import Pixels

MAX_BYTES: Final = 20 * 1024**3
FOLDER: Final = "scans"
ROWS: Final = "rows.json"
PIXELS: Final = "pixels.npy"


@dataclass(frozen=True)
class ScanCache:
    """Rows and pixels of earlier scans by key. An unusable directory acts as an empty cache.

    An entry is a directory with `rows.json` and, if pixels were kept, `pixels.npy`. The first line
    of `rows.json` is the CRC-32 of the rest. The rest includes the CRC-32 of the pixels.
    """

    root: Path = field(default_factory=default_host_cache)
    max_bytes: int = MAX_BYTES

    def read(
        self, key: str, shape: tuple[int, ...] | None
    ) -> tuple[list[Any], Pixels | None] | None:
        """Return rows, and pixels if `shape` is given; None if they are missing or damaged.

        An entry that is damaged, or has no pixels of `shape`, is deleted.
        """
        try:
            entry = open_host_cache(self.root, FOLDER) / key
        except OSError:
            return None
        try:
            return _read_entry(entry, shape)
        except (OSError, ValueError, KeyError, EOFError):
            remove_entry(entry)
            return None

    def write(self, key: str, rows: Sequence[Sequence[Any]], pixels: Pixels | None) -> None:
        """Store an entry, then delete the least recently used ones beyond `max_bytes`."""
        checksum = None if pixels is None else zlib.crc32(pixels.data)
        body = json.dumps({"rows": rows, "pixels": checksum}).encode()
        with suppress(OSError):
            folder = open_host_cache(self.root, FOLDER)
            with build_entry(folder / key) as building:
                if pixels is not None:
                    np.save(building / PIXELS, pixels)
                (building / ROWS).write_bytes(b"%08x\n" % zlib.crc32(body) + body)
            prune_entries(folder, self.max_bytes, keep=folder / key)


def _read_entry(entry: Path, shape: tuple[int, ...] | None) -> tuple[list[Any], Pixels | None]:
    checksum, _, body = (entry / ROWS).read_bytes().partition(b"\n")
    if int(checksum, 16) != zlib.crc32(body):
        raise ValueError("the rows are damaged")
    content = json.loads(body)
    pixels = None
    if shape is not None:
        # Copy-on-write: torch needs writable arrays, and the file must not change.
        pixels = np.load(entry / PIXELS, mmap_mode="c", allow_pickle=False)
        if pixels.shape != shape or zlib.crc32(pixels.data) != content["pixels"]:
            raise ValueError("the pixels are damaged or have another shape")
    mark_used(entry / ROWS)
    return content["rows"], pixels
