"""Normalisation: what is subtracted from a pixel and what it is divided by, the same in training and inside the ONNX graph."""

from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.preprocessing import Pixels

IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)  # torchvision's, in grey levels
IMAGENET_STD: Final = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Normalization:
    """(pixel - mean) / std, float32, each of a shape that broadcasts to `[3, height, width]`."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, kind: Literal["scalar", "channels", "pixels"], pixels: Pixels) -> Self:
        """From training images, uint8 `[n, height, width, 3]`.

        `scalar`: one mean, rounded to a grey level, and one deviation, so that an INT8 model takes bytes as they are, with the
        mean as its zero point. `channels`: a pair a channel. `pixels`: a mean image, and grey levels as fractions (He et al. 2015).
        """
        if kind == "pixels":
            total = np.zeros(pixels.shape[1:], np.float64)
            for start in range(0, len(pixels), 1024):
                total += pixels[start : start + 1024].sum(axis=0, dtype=np.int64)
            return cls(_tensor((total / len(pixels)).transpose(2, 0, 1)), _tensor(255.0))
        counts = np.stack(
            [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
        ).astype(np.float64)
        if kind == "scalar":
            counts = counts.sum(axis=0, keepdims=True)
        levels, number = np.arange(256), counts.sum(axis=1)
        mean = (counts * levels).sum(axis=1) / number
        std = np.sqrt(
            np.maximum((counts * (levels - mean[:, None]) ** 2).sum(axis=1) / number, 1.0)
        )
        mean = mean.round() if kind == "scalar" else mean
        return cls(_tensor(mean[:, None, None]), _tensor(std[:, None, None]))

    @classmethod
    def imagenet(cls) -> Self:
        """What torchvision's pretrained networks were trained with."""
        return cls(
            *(_tensor(np.array(values)[:, None, None]) for values in (IMAGENET_MEAN, IMAGENET_STD))
        )

    def to(self, device: torch.device) -> "Normalization":
        """The same on a device."""
        return Normalization(self.mean.to(device), self.std.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]`, channels_last in memory."""
        floats = pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float()
        return (floats - self.mean) / self.std

    def colour(self, background: tuple[int, int, int]) -> Tensor:
        """A colour after normalisation, `[3, 1, 1]`."""
        levels = torch.tensor(background, dtype=torch.float32, device=self.mean.device)[
            :, None, None
        ]
        return (levels - self.mean.mean((-2, -1), keepdim=True)) / self.std.mean(
            (-2, -1), keepdim=True
        )

    def to_json(self) -> dict[str, Any]:
        """For a weights file's metadata."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError, TypeError or ValueError."""
        return cls(*(torch.tensor(values[name], dtype=torch.float32) for name in ("mean", "std")))


def _tensor(values: float | NDArray[np.float64]) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32)).reshape(np.shape(values) or (1, 1, 1))
