"""Starts one run for all processes that torchrun or Ray launches together."""

import os
import socket
from pathlib import Path
from typing import Final

from model_store.store import ModelStore
from training.data.sources import ImageSet
from training.learning.distributed import DistributedProcess
from training.run.directory import Run, RunDirectory
from training.run.request import RunRequest, start_run

LAUNCH_FILE: Final = "launch.json"
LAUNCH_VARIABLE: Final = "RESIDENT_LAUNCH"
"""Names the launch of this process, if Ray started it."""


def start_shared_run(
    request: RunRequest, runs: Path, store: ModelStore, process: DistributedProcess
) -> tuple[Run, ImageSet | None]:
    """Call `start_run` in the first process, and open the same run in the others.

    If torchrun has restarted its workers because one was lost, all processes reopen the run that
    the launch had started. A machine that has joined later gets it from the others.

    Returns:
        The run, and its images if this process has listed them.
    """
    images: ImageSet | None = None
    path = ""
    launchers = {one for one in process.gather_objects(_launcher()) if one}
    if process.is_main:
        started = _find_started_run(runs, launchers)
        if started is None:
            run, images = start_run(request, runs, store)
            started = run.path
        if launchers:
            RunDirectory(started).write_json(LAUNCH_FILE, sorted(launchers))
        path = str(started)
    return Run.open(Path(process.broadcast_text(path))), images


def _launcher() -> str:
    """Identify the launcher that started this process; empty if it was started alone.

    With torchrun, it differs between machines.
    """
    if launch := os.environ.get(LAUNCH_VARIABLE):
        return launch
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid()
    try:  # the start time, because a container's torchrun always has the same number
        start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        start = ""
    return f"{os.environ['TORCHELASTIC_RUN_ID']} {socket.gethostname()} {parent} {start}".strip()


def _find_started_run(runs: Path, launchers: set[str]) -> Path | None:
    for path in sorted(runs.glob(f"*/{LAUNCH_FILE}"), reverse=True) if launchers else []:
        if launchers & set(RunDirectory(path.parent).read_json(LAUNCH_FILE, "run")):
            return path.parent
    return None
