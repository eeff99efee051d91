"""The processes that train together: rank, device and collective operations.

A process that is started alone has rank 0 and world size 1, and its collectives change nothing.
Under `torchrun` it joins the others, with gloo on CPUs and nccl on GPUs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from training.errors import RunError

T = TypeVar("T")

TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class DistributedProcess:
    """One of `world_size` processes, which computes on `device`."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    available_threads: int | None = None
    """The most CPU threads that a training may choose, or None if it keeps torch's number."""
    workers: int | None = 2
    """Worker processes that decode training images, or None if a training chooses the number."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.world_size > 1

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum over all processes. It may change `values` in place."""
        if self.is_distributed:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def broadcast_text(self, text: str) -> str:
        """Return the main process's text in every process."""
        if not self.is_distributed:
            return text
        values = [text]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather_objects(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if not self.is_distributed:
            return [value]
        values: list[T] = [value] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Return all rows, `[count, ...]`, in every process, on the CPU.

        Args:
            rows: The rows `rank::world_size` of this process, as floats.
            count: Number of rows of all processes.
        """
        if not self.is_distributed:
            return rows
        gathered = torch.zeros((count, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
        gathered[self.rank :: self.world_size] = rows.to(self.device)
        return self.all_reduce(gathered).cpu()

    def average_batch_norms(self, network: nn.Module) -> None:
        """Average running statistics over processes, which saw different images (timm#110)."""
        if not self.is_distributed:
            return
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name in ("running_mean", "running_var"):
                    statistic = module.get_buffer(name)
                    statistic.copy_(self.all_reduce(statistic.clone()) / self.world_size)

    def barrier(self) -> None:
        if self.is_distributed:
            dist.barrier()


SINGLE_PROCESS: Final = DistributedProcess()


@contextmanager
def join_process_group(device: str = "auto") -> Iterator[DistributedProcess]:
    """Join the processes that torchrun or Ray started, if any. Ray has already connected them.

    Raises:
        RunError: The device is not available.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = _parse_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if world_size == 1:
        yield DistributedProcess(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if dist.is_initialized():
        yield DistributedProcess(dist.get_rank(), world_size, chosen)
        return
    processes = dist.rendezvous("env://", timeout=TIMEOUT)  # type: ignore[attr-defined]
    store, rank, world_size = next(processes)
    # torchrun may keep its store when it restarts workers. A prefix per attempt keeps the addresses
    # of the lost workers apart from the new ones. Otherwise each attempt has its own store, and a
    # machine that has joined later counts fewer attempts than the others.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    try:
        yield DistributedProcess(dist.get_rank(), world_size, chosen)
    finally:
        dist.destroy_process_group()


def _parse_device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(
            f"there is no device {name!r}; `--device` takes cpu, cuda, cuda:0, ..."
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError("torch finds no CUDA device; use --device cpu")
    return torch.device("cuda", local_rank) if name == "cuda" else device
