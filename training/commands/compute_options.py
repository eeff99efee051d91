"""The options of the hardware that a command uses: device, threads and workers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from training.commands.early_checks import check_device
from training.commands.options import add_options
from training.data.decode_workers import MAX_DECODE_THREADS

WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that decode images during training; in other commands, threads. The number "
    "does not change the result.  [default: the fastest number on this machine, "
    f"measured in the first seconds of a training; elsewhere one per CPU, up to "
    f"{MAX_DECODE_THREADS}]",
)


@dataclass(frozen=True)
class ComputeOptions:
    """The hardware that a command uses: a device, CPU threads, and decoding processes."""

    device: str
    threads: int | None
    workers: int | None


def compute_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of the hardware. The command gets them as one ComputeOptions, `compute`."""

    @functools.wraps(command)
    def with_compute(*arguments: Any, **values: Any) -> None:
        fields = {name: values.pop(name) for name in ComputeOptions.__dataclass_fields__}
        command(*arguments, compute=ComputeOptions(**fields), **values)

    return add_options(
        with_compute,
        click.option(
            "--device",
            default="auto",
            show_default=True,
            callback=check_device,
            help="cpu, cuda, cuda:1, or auto: a GPU if there is one.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help="CPU threads for computation.  [default: OMP_NUM_THREADS, else the fastest number "
            "on this machine, measured in the first seconds of a training]",
        ),
        WORKERS,
    )
