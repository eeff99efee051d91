"""The host's cache directory: where it lies, and when it is trusted."""

import os
from pathlib import Path

import pytest

from model_store.host_cache import (
    default_host_cache,
    open_host_cache,
    prune_entries,
    try_host_cache,
)


def test_the_default_follows_the_xdg_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative `$XDG_CACHE_HOME` is ignored, as its specification says."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_host_cache() == tmp_path / "xdg/resident"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_host_cache() == tmp_path / "home/.cache/resident"


def test_a_user_without_a_home_has_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may run as a number that no one knows."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_host_cache().name.startswith("resident-")


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Nobody else can read or write the cache; its parents are created as usual."""
    folder = open_host_cache(tmp_path / "a/b/cache", "graphs")
    assert folder == tmp_path / "a/b/cache/graphs"
    assert {path.stat().st_mode & 0o777 for path in (folder, folder.parent)} == {0o700}
    assert open_host_cache(tmp_path / "a/b/cache", "graphs") == folder


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
@pytest.mark.parametrize("which", ["cache", "cache/graphs"])
def test_others_must_not_write(mode: int, which: str, tmp_path: Path) -> None:
    """The error says what to do. A sticky bit does not help."""
    open_host_cache(tmp_path / "cache", "graphs")
    (tmp_path / which).chmod(mode)
    with pytest.raises(PermissionError, match=r"others can write to .*chmod go-w"):
        open_host_cache(tmp_path / "cache", "graphs")
    assert try_host_cache(tmp_path / "cache", "graphs") is None


def test_another_user_s_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if only its owner can write to it. Directories of root are trusted."""
    folder = open_host_cache(tmp_path / "cache", "graphs")
    owner = folder.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    if owner == 0:
        assert open_host_cache(tmp_path / "cache", "graphs") == folder
        os.chown(folder, 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        open_host_cache(tmp_path / "cache", "graphs")


def test_a_file_in_its_place_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is no directory is an error that names it, and the service goes on without."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(OSError, match="cache"):
        open_host_cache(tmp_path / "cache", "graphs")
    assert try_host_cache(tmp_path / "cache", "graphs") is None
    assert "graphs" in caplog.text


def test_directories_and_files_are_evicted_oldest_first(tmp_path: Path) -> None:
    """The newest entry stays although it is larger than the limit, and hidden entries too."""
    for age, name in enumerate(["newest", "old", "file", ".building-1"]):
        path = tmp_path / name
        if name != "file":
            path.mkdir()
            path /= "data"
        path.write_bytes(bytes(100))
        os.utime(path, (age, age))
    prune_entries(tmp_path, 250, keep=tmp_path / "newest")
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "file", ".building-1"}
    prune_entries(tmp_path, 50, keep=tmp_path / "newest")
    assert {path.name for path in tmp_path.iterdir()} == {"newest", ".building-1"}
