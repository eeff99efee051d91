"""Samples of test and training images for measurements, spread evenly over their split."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.data.sampling import evenly_spaced
from training.data.sources import Indices
from training.experiments.laboratory import Laboratory
from training.experiments.trained_run import TrainedRun
from training.reports.history import split_indices
from training.run.data import PIXEL_CHUNK_SIZE, RunData


@dataclass(frozen=True)
class SampleTestImages:
    """At most `count` test images, the same for all runs of an experiment."""

    laboratory: Laboratory
    run: TrainedRun
    """Any run of the experiment: all share data and split."""
    count: int

    @cached_property
    def indices(self) -> Indices:
        test = np.array(split_indices(self.run.directory)["test"], np.int64)
        return evenly_spaced(test, self.count)

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def _data(self) -> RunData:
        return self.laboratory.data(self.run)

    @cached_property
    def labels(self) -> list[Tensor]:
        """int64 `[n]` per batch."""
        labels = self._data.labels(self.indices).to(self.laboratory.process.device)
        return list(torch.split(labels, PIXEL_CHUNK_SIZE))

    def batches(self, run: TrainedRun) -> list[Tensor]:
        """Images normalised for the network of `run`: float `[n, 3, h, w]`, channels_last."""
        device = self.laboratory.process.device
        normalize = run.trained.normalize.to(device)
        chunks = self._data.chunks(self.indices)
        return [normalize(torch.from_numpy(chunk).to(device)) for chunk in chunks]

    def measurement_key(self, run: TrainedRun) -> dict[str, Any]:
        """Values that identify a measurement of `run` on these images."""
        return run.measurement_key() | {"images": len(self)}


def sample_training_images(
    laboratory: Laboratory, run: TrainedRun, count: int
) -> tuple[Tensor, Tensor]:
    """At most `count` training images of a run, on the device.

    Returns:
        Normalised images, float `[n, 3, h, w]`, and labels, int64 `[n]`.
    """
    data = laboratory.data(run)
    chosen, device = evenly_spaced(data.training_indices, count), laboratory.process.device
    chunks = [run.trained.normalize(torch.from_numpy(chunk)) for chunk in data.chunks(chosen)]
    return torch.cat(chunks).to(device), data.labels(chosen).to(device)
