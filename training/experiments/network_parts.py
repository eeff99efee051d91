"""A network laid open: its stem, its blocks in a row, its head, and what stands where a block was taken out (Veit et al. 2016)."""

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


@dataclass(frozen=True)
class NetworkParts:
    """The parts of a network of BasicBlocks or PlainBlocks, in evaluation mode. Only the parts run: the network stays whole."""

    network: nn.Module
    stem: nn.Module
    names: Sequence[str]
    blocks: Sequence[nn.Module]

    @classmethod
    def of(cls, network: nn.Module) -> Self:
        """Raises RecipeError for a network of other blocks."""
        network.eval()
        stem, blocks = OrderedDict[str, nn.Module](), dict[str, nn.Module]()
        for name, child in network.named_children():
            if name == "avgpool":
                break
            if isinstance(child, nn.Sequential) and name.startswith("layer"):
                blocks |= {f"{name}.{inner}": block for inner, block in child.named_children()}
            else:
                stem[name] = child
        if strange := [
            name for name, block in blocks.items() if not isinstance(block, BasicBlock | PlainBlock)
        ]:
            raise RecipeError(
                f"{strange[0]} is neither a BasicBlock nor a PlainBlock: other blocks are not taken apart"
            )
        return cls(network, nn.Sequential(stem), list(blocks), list(blocks.values()))

    @property
    def movable(self) -> list[int]:
        """Positions of the blocks whose output has the shape of their input."""
        return [
            position for position, block in enumerate(self.blocks) if stage_change(block) is None
        ]

    @property
    def exchangeable(self) -> list[tuple[int, int]]:
        """Pairs of movable blocks of one stage: they take and give the same shape."""
        stage = [name.rpartition(".")[0] for name in self.names]
        return [
            (a, b) for a in self.movable for b in self.movable if a < b and stage[a] == stage[b]
        ]

    def head(self, last_map: Tensor) -> Tensor:
        """Logits."""
        return classify(self.network, last_map)


def stage_change(block: nn.Module) -> int | None:
    """How many filters come out of a block that changes the shape; None of one that keeps it."""
    convolution = block.get_submodule("conv1")
    if not isinstance(convolution, nn.Conv2d):
        raise TypeError(type(convolution))
    same = convolution.stride == (1, 1) and convolution.in_channels == convolution.out_channels
    return None if same else convolution.out_channels


def branches(block: BasicBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a residual block adds before its last ReLU: the shortcut's part and the residual one."""
    shortcut = x if block.downsample is None else block.downsample(x)
    return shortcut, block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))


def without(block: nn.Module) -> Callable[[Tensor], Tensor]:
    """What stands where this block was: its shortcut, or in a plain network nothing, and option A's where the shape changes."""
    if isinstance(block, BasicBlock):
        shortcut = block.downsample
        return functional.relu if shortcut is None else lambda x: functional.relu(shortcut(x))
    filters = stage_change(block)
    return nn.Identity() if filters is None else ZeroPaddedShortcut(filters)


def run_blocks(blocks: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """One after the other."""
    for block in blocks:
        x = block(x)
    return x


@torch.inference_mode()
def states(anatomy: NetworkParts, batch: Tensor) -> list[Tensor]:
    """What goes into each block, and at the end what leaves the last."""
    kept = [anatomy.stem(batch)]
    for block in anatomy.blocks:
        kept.append(block(kept[-1]))
    return kept
