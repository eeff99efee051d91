"""EfficientNet-Lite0: an inverted-residual network, whose blocks compute y = x + F(x).

F widens the channels, convolves each channel alone, and narrows them again. Source: Sandler et al.
2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks"; Tan and Le 2019, "EfficientNet".
The Lite variants have ReLU6 and no squeeze-and-excitation.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from torch import Tensor, nn

INPUT_SIZE: Final = 224
CLASSES: Final = 1000
STRIDE: Final = 32
"""Pixels of the input per pixel of the last feature map. Sizes must be multiples of it."""
_EPSILON: Final = 1e-3


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int
    """Stride of the first block; the others have stride 1."""
    expansion: int
    channels: int


_STEM_CHANNELS: Final = 32
_LAST_CHANNELS: Final = 1280
_STAGES: Final = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)


class InvertedResidual(nn.Module):
    """A block; it adds its input if its output has the same shape."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        parts = [] if expansion == 1 else [_convolution(inputs, width, 1)]
        parts += [
            _convolution(width, width, kernel, stride, groups=width),
            _convolution(width, outputs, 1, activation=False),
        ]
        self.residual = nn.Sequential(*parts)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, images: Tensor) -> Tensor:
        """Map float `[n, inputs, h, w]` to `[n, outputs, h / stride, w / stride]`."""
        residual: Tensor = self.residual(images)
        return images + residual if self.adds_input else residual


def build_efficientnet_lite0() -> nn.Sequential:
    """Build the network with random weights. Its parts have the names of this project's networks.

    The order of its parameters is that of the TensorFlow and PyTorch releases.
    """
    blocks: list[nn.Module] = []
    channels = _STEM_CHANNELS
    for stage in _STAGES:
        for number in range(stage.blocks):
            stride = 1 if number else stage.stride
            blocks.append(
                InvertedResidual(channels, stage.channels, stage.kernel, stride, stage.expansion)
            )
            channels = stage.channels
    return nn.Sequential(
        OrderedDict(
            stem=_convolution(3, _STEM_CHANNELS, 3, 2),
            blocks=nn.Sequential(*blocks),
            head=_convolution(channels, _LAST_CHANNELS, 1),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(_LAST_CHANNELS, CLASSES),
        )
    )


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    *,
    activation: bool = True,
) -> nn.Sequential:
    """Padding, convolution, batch norm and activation.

    TensorFlow pads inputs of even size by one pixel less at the top and left if the stride is 2.
    """
    total = kernel - stride
    before = total // 2
    parts: list[nn.Module] = []
    if stride > 1:
        parts.append(nn.ZeroPad2d((before, total - before, before, total - before)))
    parts += [
        nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding=0 if stride > 1 else kernel // 2,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(outputs, eps=_EPSILON),
    ]
    return nn.Sequential(*parts, *([nn.ReLU6()] if activation else []))
