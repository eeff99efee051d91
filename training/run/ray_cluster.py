"""Starts the processes of a run on a Ray cluster, as torchrun does elsewhere."""

import os
import secrets
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from model_store.command_line import as_called
from model_store.errors import ModelStoreError
from training.errors import RunError, TrainingError
from training.run.launch import LAUNCH_VARIABLE

MAX_RESTARTS: Final = 3


def run_on_ray(task: Callable[[], None], processes: int | None, runs: Path) -> None:
    """Call a function in processes of a Ray cluster, in this directory, until it succeeds.

    If a process is lost, all of them start again, and continue the run from its checkpoint.

    Args:
        task: What each process does. It joins the others by `join_process_group`.
        processes: Their number. None: one per GPU of the cluster, or per machine without GPUs.
        runs: Directory that all machines share.

    Raises:
        RunError: Ray is missing, or a process was lost too often.
        TrainingError, ModelStoreError: The task failed with it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415  optional
        from ray.train import RunConfig, ScalingConfig, WorkerGroupError  # noqa: PLC0415
        from ray.train.torch import TorchTrainer  # noqa: PLC0415
    except ImportError:
        raise RunError("`--ray` needs the package ray: pip install '.[ray]'") from None
    ray.init(ignore_reinit_error=True)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    machines = sum(node["Alive"] for node in ray.nodes())
    storage = (runs / ".ray").absolute()
    work = partial(_work, task, str(Path.cwd()), secrets.token_hex(8))
    for _ in range(1 + MAX_RESTARTS):
        trainer = TorchTrainer(
            work,
            scaling_config=ScalingConfig(
                num_workers=processes or gpus or machines,
                use_gpu=gpus > 0,
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(storage_path=str(storage)),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            lost = error
        else:
            shutil.rmtree(storage, ignore_errors=True)
            return
        failures = lost.worker_failures.values()
        for failure in failures:
            if isinstance(failure, (TrainingError, ModelStoreError)):
                raise failure
        # A lost process has an error of Ray itself; the others then cannot reach it.
        if not any(type(failure).__module__.startswith("ray.") for failure in failures):
            raise lost
    raise RunError(
        f"the run lost a process {MAX_RESTARTS + 1} times, the last time because: {lost}; continue "
        f"it with `{as_called('training resume')} RUN`"
    )


def _work(task: Callable[[], None], directory: str, launch: str) -> None:
    """Run a task in a process of the cluster."""
    os.chdir(directory)
    os.environ[LAUNCH_VARIABLE] = launch
    task()
