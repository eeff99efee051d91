"""What networks are built from besides torchvision's BasicBlock; children stand in the order in which they run."""

from collections import OrderedDict
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import conv3x3


class ZeroPaddedShortcut(nn.Module):
    """Option A's shortcut: `[n, c, h, w]` to `[n, channels, h/2, w/2]`, the new channels zero (appended after the old)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Take every second pixel and pad with zero channels.

        As a pool over one pixel: the gradient of a slice comes back in another memory format, and converting what meets it
        is a tenth of a training step.
        """
        return functional.pad(
            functional.avg_pool2d(x, kernel_size=1, stride=2),
            (0, 0, 0, 0, 0, self.channels - x.shape[1]),
        )


class PlainBlock(nn.Sequential):
    """BasicBlock without its shortcut, under its names: convolution, norm and ReLU, twice (He et al. 2015, section 3.3)."""

    expansion: Final = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, *_: Any, **__: Any) -> None:
        """What else torchvision's ResNet says to a block is about shortcuts, groups and dilation, and is ignored."""
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
    """Norm, ReLU and convolution, twice, and nothing after the addition (He et al. 2016, figure 4e).

    The block that begins a stage gives its shortcut what is activated already, as in the paper's appendix and its released
    code: `bn1` there is also the stem's norm, or the projection's. In all other blocks the input goes through untouched.
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
        """Add the residual to the identity: nothing else touches the sum."""
        activated = self.relu(self.bn1(x))
        identity = activated if self.begins_stage else x
        if self.downsample is not None:
            identity = self.downsample(identity)
        residual: Tensor = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        return residual + identity


class MirrorMean(nn.Module):
    """The mean of what a body makes of images and, mirrored back, of their mirror images: `[n, 3, h, w]` to its feature map."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Both ways, then the mean."""
        mean: Tensor = (self.body(x) + self.body(x.flip(3)).flip(3)) / 2
        return mean


class MultiplyAdd(nn.Module):
    """A batch norm in evaluation mode as one multiply and one add a channel: float `[n, c, h, w]` to the same shape."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        multiplier = norm.weight / torch.sqrt(norm.get_buffer("running_var") + norm.eps)
        addend = norm.bias - norm.get_buffer("running_mean") * multiplier
        self.register_buffer("multiplier", multiplier.detach()[:, None, None])
        self.register_buffer("addend", addend.detach()[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """What the norm gave."""
        return x * self.get_buffer("multiplier") + self.get_buffer("addend")
