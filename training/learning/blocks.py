"""Blocks of networks in addition to torchvision's `BasicBlock`.

The children of a block are registered in the order in which they run.
"""

from collections import OrderedDict
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import conv3x3


class ZeroPaddedShortcut(nn.Module):
    """Shortcut of option A: every second pixel, and new channels of zeros after the old ones.

    Source: He et al. 2015, section 3.3 (identity shortcuts with zero-padding).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Float `[n, c, h, w]` to `[n, channels, ceil(h / 2), ceil(w / 2)]`."""
        # Not a slice: its gradient has another memory format, and the conversion takes a tenth of
        # a training step.
        pixels = functional.avg_pool2d(x, kernel_size=1, stride=2)
        return functional.pad(pixels, (0, 0, 0, 0, 0, self.channels - x.shape[1]))


class PlainBlock(nn.Sequential):
    """`BasicBlock` without its shortcut, with the same names: convolution, norm, ReLU, twice.

    Source: He et al. 2015, section 3.3, "Plain Network".
    """

    expansion: Final = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, *_: Any, **__: Any) -> None:
        """Ignore torchvision's other arguments: shortcut, groups, base width, dilation."""
        children = OrderedDict[str, nn.Module](
            conv1=conv3x3(inplanes, planes, stride),
            bn1=nn.BatchNorm2d(planes),
            relu1=nn.ReLU(inplace=True),
            conv2=conv3x3(planes, planes),
            bn2=nn.BatchNorm2d(planes),
            relu2=nn.ReLU(inplace=True),
        )
        super().__init__(children)


class PreactivationBlock(nn.Module):
    """Norm, ReLU and convolution, twice, and nothing after the addition.

    In the first block of a stage the shortcut starts from the activated input, as in the paper's
    appendix and released code. In all other blocks it is the identity.

    Source: He et al. 2016, "Identity Mappings in Deep Residual Networks", figure 4e and appendix.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        *,
        begins_stage: bool = False,
    ) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv3x3(inplanes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.downsample = downsample
        self.begins_stage = begins_stage

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.bn1(x))
        identity = activated if self.begins_stage else x
        if self.downsample is not None:
            identity = self.downsample(identity)
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        return residual + identity


class MirrorMean(nn.Module):
    """Averages the feature maps of an image and its mirror image; the latter is mirrored back."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Float `[n, 3, h, w]` to the body's feature map, `[n, channels, h', w']`."""
        mean: Tensor = (self.body(x) + self.body(x.flip(3)).flip(3)) / 2
        return mean


class MultiplyAdd(nn.Module):
    """A batch norm in evaluation mode as one multiplication and one addition per channel."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        multiplier = norm.weight / torch.sqrt(norm.get_buffer("running_var") + norm.eps)
        addend = norm.bias - norm.get_buffer("running_mean") * multiplier
        self.register_buffer("multiplier", multiplier.detach()[:, None, None])
        self.register_buffer("addend", addend.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Float `[n, c, h, w]` to the same shape."""
        return x * self.get_buffer("multiplier") + self.get_buffer("addend")
