"""Starts one run for all processes that `torchrun` launches together."""

import os
from pathlib import Path
from typing import Final

from model_store.store import ModelStore
from training.data.sources import ImageSet
from training.learning.distributed import DistributedProcess
from training.run.directory import Run, RunDirectory
from training.run.request import RunRequest, start_run

LAUNCH_FILE: Final = "launch.json"


def start_shared_run(
    request: RunRequest, runs: Path, store: ModelStore, process: DistributedProcess
) -> tuple[Run, ImageSet | None]:
    """Call `start_run` in the first process, and open the same run in the others.

    If torchrun has restarted its workers because one was lost, all processes reopen the run that
    this launch had started.

    Returns:
        The run, and its images if this process has listed them.
    """
    images: ImageSet | None = None
    path = ""
    if process.is_main:
        started = _find_started_run(runs)
        if started is None:
            run, images = start_run(request, runs, store)
            started = run.path
            if launch := _launch_id():
                run.write_json(LAUNCH_FILE, launch)
        path = str(started)
    return Run.open(Path(process.broadcast_text(path))), images


def _launch_id() -> str | None:
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"


def _find_started_run(runs: Path) -> Path | None:
    if not int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")):
        return None
    for path in sorted(runs.glob(f"*/{LAUNCH_FILE}"), reverse=True):
        if RunDirectory(path.parent).read_json(LAUNCH_FILE, "run") == _launch_id():
            return path.parent
    return None
