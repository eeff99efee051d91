"""A trained network made deeper by blocks that copy their input (He et al. 2015, section 1)."""

import itertools
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from training.learning.blocks import PlainBlock
from training.learning.networks import build_network
from training.run.data import PIXEL_CHUNK_SIZE

CIFAR_STAGES: Final = ("layer1", "layer2", "layer3")


def deepen(network: nn.Module, architecture: str, classes: int, images: Tensor) -> nn.Module:
    """A deeper network with the same outputs as `network`, in evaluation mode.

    Each stage starts with the blocks of `network`, followed by identity blocks.

    Args:
        network: A trained network of the same family.
        architecture: Name of the deeper network.
        images: Normalised images, float `[n, 3, h, w]`. The batch norms of inserted plain blocks
            get their statistics from the feature maps of these images.
    """
    deeper = build_network(architecture, classes)
    for name, child in network.named_children():
        if name not in CIFAR_STAGES:
            deeper.get_submodule(name).load_state_dict(child.state_dict())
    for name, maps in zip(CIFAR_STAGES, stage_outputs(network, images), strict=True):
        trained_blocks = network.get_submodule(name).children()
        blocks = deeper.get_submodule(name).children()
        for trained, block in itertools.zip_longest(trained_blocks, blocks):
            if trained is None:
                make_identity(block, maps)
            else:
                block.load_state_dict(trained.state_dict())
    deeper.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return deeper.eval()


@torch.no_grad()
def make_identity(block: nn.Module, maps: Tensor) -> None:
    """Make a block return its non-negative input in evaluation mode.

    In a residual block, the last batch norm is zeroed, so that F(x) = 0. In a plain block, the
    convolutions copy their input. The weight and bias of each batch norm are the standard
    deviation and mean of `maps`, so that they undo the normalisation. In training mode, which
    uses the statistics of the batch, a plain block is therefore also close to the identity.

    Args:
        maps: Inputs of the block, float `[n, channels, h, w]`.
    """
    if isinstance(block, BasicBlock):
        nn.init.zeros_(block.bn2.weight)
        nn.init.zeros_(block.bn2.bias)
        return
    if not isinstance(block, PlainBlock):
        raise TypeError(f"a {type(block).__name__} cannot be made an identity")
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
def stage_outputs(network: nn.Module, images: Tensor) -> Iterator[Tensor]:
    """Output of each stage for normalised images, in evaluation mode: float `[n, c, h, w]`."""
    network.eval()
    maps = images
    for name, child in network.named_children():
        if name == "avgpool":
            return
        maps = torch.cat([child(part) for part in torch.split(maps, PIXEL_CHUNK_SIZE)])
        if name in CIFAR_STAGES:
            yield maps
