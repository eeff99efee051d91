"""The constructed solution: a trained network made deeper by blocks that copy their input (He et al. 2015, section 1)."""

import itertools
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from training.experiments.training_steps import CHUNK
from training.learning.blocks import PlainBlock
from training.learning.networks import build_network

STAGES: Final = ("layer1", "layer2", "layer3")


def deepen(network: nn.Module, architecture: str, classes: int, images: Tensor) -> nn.Module:
    """A network of this architecture that answers as `network`, a shallower one of the same kind, does: in evaluation mode.

    Each stage begins with the blocks of the shallower one; those behind them are identities. `images`, float `[n, 3, h, w]`,
    are normalised ones, from which the norms of inserted plain blocks take the statistics of the maps that they get.
    """
    deeper = build_network(architecture, classes)
    for name, child in network.named_children():
        if name not in STAGES:
            deeper.get_submodule(name).load_state_dict(child.state_dict())
    for name, maps in zip(STAGES, stage_maps(network, images), strict=True):
        taken, blocks = (
            list(network.get_submodule(name).children()),
            list(deeper.get_submodule(name).children()),
        )
        for own, block in itertools.zip_longest(taken, blocks):
            if own is None:
                make_identity(block, maps)
            else:
                block.load_state_dict(own.state_dict())
    deeper.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return deeper.eval()


@torch.no_grad()
def make_identity(block: nn.Module, maps: Tensor) -> None:
    """Let a block give back what it gets, in evaluation mode, float `[n, channels, h, w]` of values that are not negative.

    A residual block's last norm is zeroed, so that F(x) = 0. A plain block's convolutions copy, and its norms undo themselves:
    weight and bias are the running deviation and mean, those of `maps`. So it also nearly copies with the statistics of a batch.
    """
    if isinstance(block, BasicBlock):
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
        return
    if not isinstance(block, PlainBlock):
        raise TypeError(f"there is no identity for a {type(block).__name__}")
    eps = nn.BatchNorm2d(1).eps
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
    for name in ("1", "2"):
        nn.init.dirac_(block.get_parameter(f"conv{name}.weight"))
        norm = block.get_submodule(f"bn{name}")
        norm.get_buffer("running_mean").copy_(mean)
        norm.get_buffer("running_var").copy_(variance)
        norm.get_parameter("weight").copy_((variance + eps).sqrt())
        norm.get_parameter("bias").copy_(mean)


@torch.no_grad()
def stage_maps(network: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """What each stage makes of normalised images, in evaluation mode: float `[n, channels, h, w]`, a stage at a time."""
    network.eval()
    maps = images
    for name, child in network.named_children():
        if name == "avgpool":
            return
        maps = torch.cat([child(part) for part in torch.split(maps, CHUNK)])
        if name in STAGES:
            yield maps
