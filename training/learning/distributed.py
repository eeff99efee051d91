"""This process among those that train together: rank, device, and the few things that all of them do at once.

Started alone it is rank 0 of 1 and every collective is the identity. Started by `torchrun` it joins the others (gloo on
CPUs, nccl on GPUs).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from training.errors import RunError

TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True)
class DistributedProcess:
    """One of `world_size` processes; `device` is where it computes."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there are others."""
        return self.world_size > 1

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        if self.is_distributed:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def broadcast_text(self, text: str) -> str:
        """The first process's text, on each of them."""
        if not self.is_distributed:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Rows `rank::world_size` of each process put together again in order, `[count, …]`, float, on each of them."""
        if not self.is_distributed:
            return rows
        whole = torch.zeros((count, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
        whole[self.rank :: self.world_size] = rows.to(self.device)
        return self.all_reduce(whole).cpu()

    def average_batch_norms(self, network: nn.Module) -> None:
        """Give every process the mean of all running statistics: each has seen other images (timm#110)."""
        if not self.is_distributed:
            return
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name in ("running_mean", "running_var"):
                    statistic = module.get_buffer(name)
                    statistic.copy_(self.all_reduce(statistic.clone()) / self.world_size)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.is_distributed:
            dist.barrier()


SINGLE_PROCESS: Final = DistributedProcess()


@contextmanager
def join_process_group(device: str = "auto") -> Iterator[DistributedProcess]:
    """Be one of the processes that `torchrun` started, or the only one. Raises RunError for a device that is not there."""
    world_size, local_rank = (
        int(os.environ.get("WORLD_SIZE", "1")),
        int(os.environ.get("LOCAL_RANK", "0")),
    )
    chosen = _device(device, local_rank)
    if world_size == 1:
        yield DistributedProcess(device=chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # torchrun keeps its store when it starts workers again: without a place of their own they would find the lost ones' addresses
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        store=PrefixStore(attempt, store),
        rank=rank,
        world_size=world_size,
        timeout=TIMEOUT,
    )
    try:
        yield DistributedProcess(dist.get_rank(), world_size, chosen)
    finally:
        dist.destroy_process_group()


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RunError(f"there is no device {name!r}; there are cpu, cuda, cuda:0, …") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RunError("torch finds no CUDA device here; use --device cpu")
    return torch.device("cuda", local_rank) if name == "cuda" else device
