"""Scans kept on disk between runs: a favour, so what can not be written, read or trusted counts as not there."""

import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import numpy as np

from model_store.preprocessing import Pixels

LIMIT_BYTES: Final = 20 * 1024**3


@dataclass(frozen=True)
class CacheEntry:
    """One scan's rows and pixels, as two files whose names begin alike; the rows, written last, hold the pixels' checksum."""

    directory: Path
    key: str

    @classmethod
    def of(cls, key: str) -> Self:
        """The entry of this key in `$XDG_CACHE_HOME/resident`, by default `~/.cache/resident`."""
        return cls(
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resident", key
        )

    def read(self, shape: tuple[int, ...] | None) -> tuple[list[Any], Pixels | None] | None:
        """Rows, and pixels of this shape where one is given; None where they are not there, or damaged."""
        try:
            checksum, _, body = (self.directory / f"{self.key}.json").read_bytes().partition(b"\n")
            if int(checksum, 16) != zlib.crc32(body):
                return None
            content = json.loads(body)
            rows, pixels = content["rows"], None
            if shape is not None:
                # copy-on-write: torch takes no array that is read-only, and the file must not change
                pixels = np.load(
                    self.directory / f"{self.key}.npy", mmap_mode="c", allow_pickle=False
                )
                if pixels.shape != shape or zlib.crc32(pixels.data) != content["pixels"]:
                    return None
        except (OSError, ValueError, KeyError, EOFError):
            return None
        for suffix in ("json", "npy"):
            with suppress(OSError):  # what is used is young
                os.utime(self.directory / f"{self.key}.{suffix}")
        return rows, pixels

    def write(self, rows: Sequence[Sequence[Any]], pixels: Pixels | None) -> None:
        """Replace the entry, and remove those longest unused where the cache has become large."""
        body = json.dumps(
            {"rows": rows, "pixels": None if pixels is None else zlib.crc32(pixels.data)}
        ).encode()
        with suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if pixels is not None:
                with self._replacing("npy") as file:
                    np.save(file, pixels)
            with self._replacing("json") as file:
                file.write(b"%08x\n" % zlib.crc32(body) + body)
            self._prune()

    @contextmanager
    def _replacing(self, suffix: str) -> Iterator[BinaryIO]:
        draft = self.directory / f".{self.key}.{suffix}.{os.getpid()}"
        try:
            with open(draft, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.directory / f"{self.key}.{suffix}")
        finally:
            draft.unlink(missing_ok=True)

    def _prune(self) -> None:
        """The oldest files go, drafts of a killed process too; never this entry's."""
        files = sorted(
            (file.stat().st_mtime, file.stat().st_size, file) for file in self.directory.iterdir()
        )
        excess = sum(size for _, size, _ in files) - LIMIT_BYTES
        for _, size, file in files:
            if excess <= 0:
                return
            if file.stem != self.key:
                file.unlink(missing_ok=True)
                excess -= size
