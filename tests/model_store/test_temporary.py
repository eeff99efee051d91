"""Temporary directories: removed at their end, or by a later process if their own was killed."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from store_factory import publish_plain

from model_store.sealed_model import open_model
from model_store.store import ModelStore
from model_store.temporary import PREFIX, temporary_directory

HOLD = (
    "import sys; from model_store.temporary import temporary_directory\n"
    "with temporary_directory('files') as folder:\n"
    "    (folder / 'link').symlink_to('/proc/self/fd/0'); print(folder, flush=True); input()"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_directory_of_a_killed_process_is_removed_and_of_a_running_one_kept(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        other = Path(process.stdout.readline().strip())
        with temporary_directory("other") as own:
            assert {path for path in folder.iterdir() if path.is_dir()} == {own, other}
        process.send_signal(signal.SIGKILL)
    assert list(folder.iterdir()) == [other]
    with temporary_directory("other") as own:
        assert list(folder.iterdir()) == [own]
    assert list(folder.iterdir()) == []


def test_loading_a_version_removes_what_a_killed_process_left(
    folder: Path, store: ModelStore
) -> None:
    """Other directories stay, such as the cache of a user without a home."""
    for name in (f"{PREFIX}killed", "resident-0", "mine"):
        (folder / name).mkdir()
    with (
        store.open("m", publish_plain(store)) as version,
        open_model(version, version.variant()) as path,
    ):
        assert list(folder.glob(f"{PREFIX}*")) == [path.parent]
    assert {path.name for path in folder.iterdir()} >= {"resident-0", "mine"}
    assert not list(folder.glob(f"{PREFIX}*"))
