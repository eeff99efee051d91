"""Normalization of pixels, both in training and inside the ONNX graph."""

from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_store.preprocessing import Pixels

IMAGENET_MEAN: Final = (123.675, 116.28, 103.53)  # torchvision's values times 255
IMAGENET_STD: Final = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Normalization:
    """`(pixel - mean) / std`.

    Attributes:
        mean: float32, broadcastable to `[3, height, width]`, in pixel values 0 to 255.
        std: The same for the standard deviation.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, kind: Literal["scalar", "channels", "pixels"], pixels: Pixels) -> Self:
        """Compute the statistics of training images.

        Args:
            kind: `scalar` is one mean, rounded to an integer so that it can be the zero point of
                an INT8 model, and one deviation. `channels` is a pair per channel. `pixels` is a
                mean image, and division by 255 (He et al. 2015, section 4.2).
            pixels: uint8 `[n, height, width, 3]`.
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
        """The statistics of torchvision's pretrained networks."""
        return cls(
            *(_tensor(np.array(values)[:, None, None]) for values in (IMAGENET_MEAN, IMAGENET_STD))
        )

    def to(self, device: torch.device) -> "Normalization":
        return Normalization(self.mean.to(device), self.std.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 `[n, h, w, 3]` to float32 `[n, 3, h, w]`, channels_last in memory."""
        floats = pixels.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float()
        return (floats - self.mean) / self.std

    def color(self, background: tuple[int, int, int]) -> Tensor:
        """A color after normalization, float32 `[3, 1, 1]`."""
        levels = torch.tensor(background, dtype=torch.float32, device=self.mean.device)
        mean, std = (values.mean((-2, -1), keepdim=True) for values in (self.mean, self.std))
        return (levels[:, None, None] - mean) / std

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: The values are invalid.
        """
        return cls(*(torch.tensor(values[name], dtype=torch.float32) for name in ("mean", "std")))


def _tensor(values: float | NDArray[np.float64]) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32)).reshape(np.shape(values) or (1, 1, 1))
