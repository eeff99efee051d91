"""Some test images that trained networks are examined with, the same for all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from training.data.sampling import evenly_spaced
from training.data.sources import Indices
from training.errors import InterruptedRunError
from training.experiments.laboratory import Laboratory, TrainedRun
from training.reports.history import split_rows
from training.run.data import PIXEL_CHUNK_SIZE, RunData

Item = TypeVar("Item")


@dataclass(frozen=True)
class TestImages:
    """So many test images, spread evenly over the split (which may lie class by class); all of it where it has fewer."""

    laboratory: Laboratory
    run: TrainedRun
    """Any of the runs: they share data and split."""
    wanted: int

    @cached_property
    def indices(self) -> Indices:
        """Their positions in the data."""
        test = np.array(split_rows(self.run.directory)["test"], np.int64)
        return evenly_spaced(test, self.wanted)

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _data(self) -> RunData:
        return self.laboratory.data(self.run)

    @cached_property
    def labels(self) -> list[Tensor]:
        """Their labels, batch by batch."""
        return list(
            torch.split(
                self._data.labels(self.indices).to(self.laboratory.process.device), PIXEL_CHUNK_SIZE
            )
        )

    def batches(self, run: TrainedRun) -> list[Tensor]:
        """The images as this run's network takes them: float `[n, 3, h, w]`, channels_last, batch by batch."""
        device = self.laboratory.process.device
        normalize = run.trained.normalize.to(device)
        return [
            normalize(torch.from_numpy(chunk).to(device))
            for chunk in self._data.chunks(self.indices)
        ]

    def identity(self, run: TrainedRun) -> dict[str, Any]:
        """What any measurement of this run's network on these images depends on: for `Laboratory.measured`."""
        return run.identity() | {"images": len(self)}


def counted(laboratory: Laboratory, what: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items one by one under a bar. Raises InterruptedRunError once a person wants to stop."""
    advance = laboratory.display.count(what)
    for done, item in enumerate(items):
        if laboratory.interrupted():
            raise InterruptedRunError(
                f"stopped while measuring ({what}, {done} of {len(items)}); what was measured before is kept"
            )
        advance(done, len(items))
        yield item
    advance(len(items), len(items))
