"""Splits a network into stem, blocks and head, so that blocks can be removed or reordered."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock

from training.errors import RecipeError
from training.learning.blocks import PlainBlock, ZeroPaddedShortcut
from training.learning.networks import classify

BlockFunction = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NetworkParts:
    """Parts of a network of BasicBlocks or PlainBlocks, in evaluation mode."""

    network: nn.Module
    stem: nn.Module
    names: Sequence[str]
    """Names of the blocks, such as `layer1.0`."""
    blocks: Sequence[nn.Module]

    @classmethod
    def of(cls, network: nn.Module) -> Self:
        """Split a network. Raises RecipeError if it has other blocks."""
        network.eval()
        stem, blocks = OrderedDict[str, nn.Module](), dict[str, nn.Module]()
        for name, child in network.named_children():
            if name == "avgpool":
                break
            if isinstance(child, nn.Sequential) and name.startswith("layer"):
                blocks |= {f"{name}.{inner}": block for inner, block in child.named_children()}
            else:
                stem[name] = child
        for name, block in blocks.items():
            if not isinstance(block, BasicBlock | PlainBlock):
                raise RecipeError(
                    f"Block {name} is a {type(block).__name__}. Only networks of BasicBlock and "
                    "PlainBlock can be measured."
                )
        return cls(network, nn.Sequential(stem), list(blocks), list(blocks.values()))

    @property
    def shape_keeping(self) -> list[int]:
        """Positions of the blocks whose output has the shape of their input."""
        return [
            position for position, block in enumerate(self.blocks) if changed_filters(block) is None
        ]

    @property
    def swappable_pairs(self) -> list[tuple[int, int]]:
        """Pairs of shape-keeping blocks of the same stage."""
        stages, positions = [name.rpartition(".")[0] for name in self.names], self.shape_keeping
        return [(a, b) for a in positions for b in positions if a < b and stages[a] == stages[b]]

    def head(self, last_map: Tensor) -> Tensor:
        """Logits of the last feature map."""
        return classify(self.network, last_map)


def changed_filters(block: nn.Module) -> int | None:
    """Output channels of a block that changes the shape; None for a block that keeps it."""
    convolution = block.get_submodule("conv1")
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError(type(convolution))
    same = convolution.stride == (1, 1) and convolution.in_channels == convolution.out_channels
    return None if same else convolution.out_channels


def block_branches(block: BasicBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms that a residual block adds before its last ReLU: shortcut and F(x)."""
    shortcut = x if block.downsample is None else block.downsample(x)
    return shortcut, block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))


def deleted_block(block: nn.Module) -> BlockFunction:
    """The function that replaces a deleted block.

    For a residual block, it is the block's shortcut. For a plain block, it is the identity, or the
    shortcut of option A if the block changes the shape.
    """
    if isinstance(block, BasicBlock):
        shortcut = block.downsample
        return functional.relu if shortcut is None else lambda x: functional.relu(shortcut(x))
    filters = changed_filters(block)
    return nn.Identity() if filters is None else ZeroPaddedShortcut(filters)


def run_blocks(blocks: Iterable[BlockFunction], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


@torch.inference_mode()
def block_inputs(parts: NetworkParts, batch: Tensor) -> list[Tensor]:
    """Input of each block, and the output of the last one."""
    inputs = [parts.stem(batch)]
    for block in parts.blocks:
        inputs.append(block(inputs[-1]))
    return inputs
