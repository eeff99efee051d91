"""Residual networks: the CIFAR style of He et al. 2015, section 4.2, on torchvision's blocks and names.

6n+2 layers: one 3x3 convolution, three stages of n blocks with 16, 32 and 64 filters on maps of 32, 16 and 8 pixels, global
average pooling, one fully connected layer. Shortcuts are option A: identity, and where the size changes every second pixel
and zero channels, so they have no parameters.
"""

import re
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from training.errors import RecipeError

CIFAR_DEPTHS: Final = (20, 32, 44, 56, 110, 1202)


class Subsample(nn.Module):
    """Option A's shortcut: `[n, c, h, w]` to `[n, channels, h/2, w/2]`, the new channels zero (appended after the old)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Take every second pixel and pad with zero channels."""
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.channels - x.shape[1]))


class CifarResNet(nn.Module):
    """A residual network of 6n+2 layers for small images: float `[batch, 3, h, w]` to logits `[batch, classes]`."""

    def __init__(self, depth: int, classes: int) -> None:
        """`depth` must be 6n+2; raises RecipeError."""
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise RecipeError(f"a CIFAR-style residual network has 6n+2 layers (20, 32, 44, 56, 110, 1202), not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # He et al. 2015b; torch's default is 2.4 x smaller
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, `[batch, 64, h/4, w/4]`: what class-activation maps are made from."""
        x = functional.relu(self.bn1(self.conv1(x)))
        return torch.as_tensor(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]`."""
        return self.classify(self.features(x))

    def classify(self, features: Tensor) -> Tensor:
        """Global average pooling and the last layer: logits `[batch, classes]` of a feature map."""
        return torch.as_tensor(self.fc(features.mean((2, 3))))


def build_network(architecture: str, classes: int) -> CifarResNet:
    """The network that a name like `resnet20` stands for. Raises RecipeError for a name that is not known."""
    return CifarResNet(parse_depth(architecture), classes)


def parse_depth(architecture: str) -> int:
    """The depth that a name like `resnet20` says. Raises RecipeError for a name that is not known."""
    match = re.fullmatch(r"resnet(\d+)", architecture, re.ASCII)
    if match is None or int(match[1]) not in CIFAR_DEPTHS:
        known = ", ".join(f"resnet{depth}" for depth in CIFAR_DEPTHS)
        raise RecipeError(f"there is no architecture {architecture!r}; there are {known}")
    return int(match[1])


def _stage(inplanes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    shortcut = Subsample(planes) if stride != 1 else None
    rest = [BasicBlock(planes, planes) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inplanes, planes, stride, shortcut), *rest)
