"""Scans kept between runs: in a directory of their own, and never more than the limit."""

import os
from pathlib import Path

import numpy as np
import pytest

from model_store.host_cache import default_host_cache, open_host_cache
from training.data.scan_cache import FOLDER, ROWS, ScanCache

ROW = [["x" * 1900, 1, 2]]
"""About 2 kB once written."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def keys(root: Path) -> set[str]:
    return {path.name for path in (root / FOLDER).iterdir()}


def test_rows_and_pixels_are_read_as_they_were_written(root: Path) -> None:
    """Pixels only where a shape asks for them."""
    cache = ScanCache(root)
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    cache.write("key", ROW, pixels)
    assert cache.read("key", None) == (ROW, None)
    cached = cache.read("key", (2, 2, 2, 3))
    assert cached is not None
    assert np.array_equal(cached[1], pixels)
    assert cache.read("another", None) is None


def test_only_the_newest_entry_stays_beyond_the_limit(root: Path) -> None:
    """Five entries of 2 kB do not fit into 1,000 bytes."""
    cache = ScanCache(root, max_bytes=1000)
    for number in range(5):
        cache.write(f"key-{number}", ROW, None)
    assert keys(root) == {"key-4"}


def test_the_cache_of_others_is_neither_counted_nor_deleted(root: Path) -> None:
    """Graphs, engines and tuned settings of the service lie beside the scans."""
    others = [open_host_cache(root, name) / "entry" for name in ("graphs", "engines", "tuning")]
    for other in others:
        other.mkdir()
        (other / "file").write_bytes(bytes(10_000))
        os.utime(other / "file", (0, 0))
    cache = ScanCache(root, max_bytes=5000)
    for number in range(3):
        cache.write(f"key-{number}", ROW, None)
    assert len(keys(root)) == 2
    assert all((other / "file").exists() for other in others)


def test_the_entry_used_longest_ago_goes_first(root: Path) -> None:
    """Reading counts as use."""
    cache = ScanCache(root, max_bytes=5000)
    for number in range(2):
        cache.write(f"key-{number}", ROW, None)
        os.utime(root / FOLDER / f"key-{number}" / ROWS, (number, number))
    cache.read("key-0", None)
    cache.write("key-2", ROW, None)
    assert keys(root) == {"key-0", "key-2"}


def test_an_entry_without_the_pixels_is_replaced(root: Path) -> None:
    """A run with a smaller limit for pixels has kept only the rows."""
    cache = ScanCache(root)
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    cache.write("key", ROW, None)
    assert cache.read("key", pixels.shape) is None
    cache.write("key", ROW, pixels)
    cached = cache.read("key", pixels.shape)
    assert cached is not None
    assert np.array_equal(cached[1], pixels)


@pytest.mark.parametrize("value", ["relative", ""])
def test_it_lies_in_the_cache_directory_of_the_host(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative `$XDG_CACHE_HOME` is ignored."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert ScanCache().root == tmp_path / ".cache" / "resident"


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a user that has no entry in the password file."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert ScanCache().root == default_host_cache()


def test_a_directory_that_others_can_write_to_is_not_used(root: Path) -> None:
    """Other users could have replaced the pixels."""
    cache = ScanCache(root)
    cache.write("key", ROW, None)
    (root / FOLDER).chmod(0o777)
    assert cache.read("key", None) is None
