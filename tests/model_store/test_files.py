"""Replacing a file in one step."""

from pathlib import Path

import pytest

from model_store.files import open_atomically, write_atomically


def test_a_file_is_created_and_replaced(tmp_path: Path) -> None:
    """No temporary file is left beside it."""
    path = tmp_path / "file.json"
    write_atomically(path, b"old")
    write_atomically(path, memoryview(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_exception_keeps_the_old_content(tmp_path: Path) -> None:
    """What was written so far is removed."""
    path = tmp_path / "file.json"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with open_atomically(path) as file:
            file.write(b"half of the new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_mode_is_that_of_the_new_file(tmp_path: Path) -> None:
    """A file with secrets is never readable by others, not even while it is written."""
    with open_atomically(tmp_path / "keys", mode=0o600) as file:
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_mode & 0o777 == 0o600
        file.write(b"secret")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600
