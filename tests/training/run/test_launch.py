"""Processes that torchrun restarts continue the run of their own launch."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.store import ModelStore
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run import launch
from training.run.directory import Run
from training.run.launch import LAUNCH_FILE, start_shared_run
from training.run.request import RunRequest

REQUEST = RunRequest(("digits",), "resnet20")


@pytest.fixture
def start(
    new_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Run]:
    """Returns a function that starts or reopens a run under `tmp_path/runs`."""
    monkeypatch.setattr(launch, "start_run", lambda *_: (new_run(), None))
    store = ModelStore(tmp_path / "store")
    return lambda: start_shared_run(REQUEST, tmp_path / "runs", store, SINGLE_PROCESS)[0]


def test_a_restart_reopens_the_run_of_its_launch(
    start: Callable[[], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of other launches are left alone."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    first = start()
    for name in ("a-first-by-name", "zz-last-by-name"):
        other = Run.create_at(tmp_path / "runs" / name, first.config)
        other.write_json(LAUNCH_FILE, f"another {os.getppid()}")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert start().path == first.path


class JoinedLater(DistributedProcess):
    """The first process, on a machine that joined a launch of the machine `old`."""

    def gather_objects(self, value: str) -> list[str]:  # type: ignore[override]
        return [value, "mine old 1 2"]


def test_a_machine_that_joined_later_reopens_the_run(
    new_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own torchrun has restarted nothing. Afterwards, the run knows both machines."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    started = new_run()
    started.write_json(LAUNCH_FILE, ["mine lost 1 2", "mine old 1 2"])
    store = ModelStore(tmp_path / "store")
    found, _ = start_shared_run(REQUEST, started.path.parent, store, JoinedLater())
    assert found.path == started.path
    known = found.read_json(LAUNCH_FILE, "run")
    assert len(known) == 2
    assert "mine old 1 2" in known


def test_without_torchrun_every_start_is_a_new_run(
    start: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No launch is recorded."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    first, second = start(), start()
    assert first.path != second.path
    assert not first.has(LAUNCH_FILE)
