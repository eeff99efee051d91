"""Networks by name: residual, plain and pre-activated ones for small images, torchvision's for large ones, used all alike.

A network's children stand in the order in which they run, `avgpool` and `fc` last, under torchvision's names: what is before
`avgpool` makes the last feature map, and whatever needs a part of a network finds it there.
"""

import copy
import itertools
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, ResNet, conv1x1, conv3x3

from training.errors import RecipeError
from training.learning.blocks import (
    MirrorMean,
    MultiplyAdd,
    PlainBlock,
    PreactivationBlock,
    ZeroPaddedShortcut,
)

CIFAR_DEPTHS: Final = (20, 32, 44, 56, 110, 1202)
PLAIN_LAYERS: Final = {
    "plain18": (2, 2, 2, 2),
    "plain34": (3, 4, 6, 3),
}  # blocks a stage, as in the residual twins
IMAGENET: Final = (
    *(
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", *PLAIN_LAYERS),
)
NAMES: Final = (  # and the suffixes that each may have
    (tuple(f"resnet{depth}" for depth in CIFAR_DEPTHS), ("-b", "-c")),
    (tuple(f"preresnet{depth}" for depth in CIFAR_DEPTHS), ("-b",)),
    (tuple(f"plain{depth}" for depth in CIFAR_DEPTHS), ()),
    (IMAGENET, ("-small",)),
)


@dataclass(frozen=True)
class Architecture:
    """What a name says. `depth` counts the layers with weights, projections left out; `shortcut` is none in plain networks."""

    base: str
    family: str
    depth: int
    shortcut: Literal["A", "B", "C"] | None
    style: Literal["cifar", "imagenet"]
    image_size: int


def known_architectures() -> tuple[str, ...]:
    """Every name there is."""
    return tuple(
        base + suffix for bases, suffixes in NAMES for suffix in ("", *suffixes) for base in bases
    )


def describe_architectures() -> str:
    """The names in one sentence, for people."""
    return "; ".join(
        ", ".join(bases) + (f" (and with {' or '.join(suffixes)})" if suffixes else "")
        for bases, suffixes in NAMES
    )


def parse_architecture(name: str) -> Architecture:
    """What a name says. Raises RecipeError, which lists the names, for one that is not known."""
    if name not in known_architectures():
        raise RecipeError(
            f"there is no architecture {name!r}; there are {describe_architectures()}"
        )
    base, hyphen, ending = name.partition("-")
    suffix = hyphen + ending
    family, depth, _ = re.split(r"_?(\d+)", base, maxsplit=1)
    imagenet = base in IMAGENET
    shortcuts: dict[str, Literal["A", "B", "C"]] = {
        "": "B" if imagenet else "A",
        "-small": "B",
        "-b": "B",
        "-c": "C",
    }
    return Architecture(
        base=base,
        family=family,
        depth=int(depth),
        shortcut=None if family == "plain" else shortcuts[suffix],
        style="imagenet" if imagenet else "cifar",
        image_size=224 if imagenet and not suffix else 32,
    )


def default_image_size(architecture: str) -> int:
    """The side, in pixels, of the square images that a network is made for. Raises RecipeError for an unknown name."""
    return parse_architecture(architecture).image_size


def build_network(
    architecture: str, classes: int, *, zero_init_residual: bool = False
) -> nn.Module:
    """The network that a name stands for, at its start: float `[n, 3, h, w]` to logits `[n, classes]`.

    Names of 20, 32, 44, 56, 110 and 1202 layers are He et al. 2015, section 4.2, with shortcuts of option A; `-b` projects where
    sizes change, `-c` everywhere; `preresnet` is He et al. 2016. The others are torchvision's, and `plain18` and `plain34` their
    twins without shortcuts; `-small` gives them a stem for small images: 3x3, stride 1, no pooling.

    Convolutions start normal (He et al. 2015b), by fan-in in the first kind, by fan-out in the second; the head's bias is zero.
    `zero_init_residual` begins with shortcuts alone (Goyal et al. 2017, section 5.1): it zeroes the last norm of each residual
    branch or, in pre-activated networks, where none follows it, the last convolution.

    Raises RecipeError for an unknown name, and for `zero_init_residual` in a plain network, which no signal would pass.
    """
    parsed = parse_architecture(architecture)
    if zero_init_residual and parsed.shortcut is None:
        raise RecipeError(
            f"{architecture} has no shortcuts, so zero_init_residual would let nothing through"
        )
    build = _build_cifar if parsed.style == "cifar" else _build_imagenet
    network = build(parsed, classes, zero_init_residual=zero_init_residual)
    nn.init.zeros_(network.get_parameter("fc.bias"))
    return network


def features(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature map, float `[n, channels, h, w]`, of images `[n, 3, h, w]`: what class-activation maps are made from."""
    for name, child in network.named_children():
        if name == "avgpool":
            break
        images = child(images)
    return images


def classify(network: nn.Module, last_map: Tensor) -> Tensor:
    """Global average pooling and the last layer: logits `[n, classes]` of what `features` gave."""
    # mean, not avgpool: it exports as one node whatever the strides are
    logits: Tensor = network.get_submodule("fc")(last_map.mean((2, 3)))
    return logits


def mirror_averaged(network: nn.Module) -> nn.Module:
    """The same weights, answering with the mean over an image and its mirror image: twice the work, its own map and logits.

    The last layer is linear, so the mean of the maps gives the mean of the logits, and class-activation maps hold.
    """
    children = dict(network.named_children())
    body = itertools.takewhile(lambda child: child[0] != "avgpool", children.items())
    return nn.Sequential(
        OrderedDict(
            body=MirrorMean(nn.Sequential(OrderedDict(body))),
            avgpool=children["avgpool"],
            flatten=nn.Flatten(),
            fc=children["fc"],
        )
    )


def layer_groups(network: nn.Module) -> list[list[tuple[str, nn.Parameter]]]:
    """All parameters with their names, in the order of depth: the stem, each stage, the head (`fc` alone)."""
    groups: list[list[tuple[str, nn.Parameter]]] = [[]]
    for name, child in network.named_children():
        if name.startswith("layer") or name == "fc":
            groups.append([])
        groups[-1] += child.named_parameters(prefix=name)
    return groups


def count_multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds for one image `[3, size, size]`, in convolutions and the last layer: half of what torch counts as FLOPs."""
    shadow = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.zeros(1, 3, size, size, device="meta"))
    return int(counter.get_total_flops()) // 2


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode without batch norms: one behind a convolution goes into it, others become a multiply and an add.

    The exporter would fold the first kind too, but not where a mirrored network uses its convolutions twice.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if before is not None and isinstance(before[1], nn.Conv2d):
                    parent.register_module(before[0], fuse_conv_bn_eval(before[1], child))
                    parent.register_module(name, nn.Identity())
                else:
                    parent.register_module(name, MultiplyAdd(child))
            before = (name, child)
    return folded


def _build_cifar(
    architecture: Architecture, classes: int, *, zero_init_residual: bool
) -> nn.Sequential:
    """He et al. 2015, section 4.2: 6n+2 layers, three stages of n blocks with 16, 32, 64 filters on maps of 32, 16, 8 pixels."""
    preactivated = architecture.family == "preresnet"
    stem: dict[str, nn.Module] = {"conv1": conv3x3(3, 16)}
    norm: dict[str, nn.Module] = {
        "bn1": nn.BatchNorm2d(64 if preactivated else 16),
        "relu": nn.ReLU(inplace=True),
    }
    stages: dict[str, nn.Module] = {
        "layer1": _stage(architecture, 16, 16),
        "layer2": _stage(architecture, 16, 32),
        "layer3": _stage(architecture, 32, 64),
    }
    head = {
        "avgpool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(64, classes),
    }
    body = stages | norm if preactivated else norm | stages
    network = nn.Sequential(OrderedDict(stem | body | head))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(
                module.weight, nonlinearity="relu"
            )  # torch's default is 2.4 x smaller
    if zero_init_residual:
        last = "conv2.weight" if preactivated else "bn2.weight"
        for name, parameter in network.named_parameters():
            if name.endswith(last):
                nn.init.zeros_(parameter)
    return network


def _stage(architecture: Architecture, inplanes: int, planes: int) -> nn.Sequential:
    """Blocks of one width; the first halves the map where it doubles the filters."""
    first = _block(architecture, inplanes, planes, begins_stage=True)
    rest = [
        _block(architecture, planes, planes, begins_stage=False)
        for _ in range((architecture.depth - 2) // 6 - 1)
    ]
    return nn.Sequential(first, *rest)


def _block(
    architecture: Architecture, inplanes: int, planes: int, *, begins_stage: bool
) -> nn.Module:
    stride = planes // inplanes
    if architecture.family == "plain":
        return PlainBlock(inplanes, planes, stride)
    shortcut: nn.Module | None = None
    if architecture.shortcut == "C" or (architecture.shortcut == "B" and stride > 1):
        shortcut = conv1x1(inplanes, planes, stride)
    elif stride > 1:
        shortcut = ZeroPaddedShortcut(planes)
    if architecture.family == "preresnet":
        return PreactivationBlock(inplanes, planes, stride, shortcut, begins_stage=begins_stage)
    if isinstance(shortcut, nn.Conv2d):
        shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(planes))
    block: nn.Module = BasicBlock(inplanes, planes, stride, shortcut)
    return block


def _build_imagenet(
    architecture: Architecture, classes: int, *, zero_init_residual: bool
) -> nn.Module:
    """The network as torchvision builds it; a plain one is the same with another block."""
    values: dict[str, Any] = {"num_classes": classes, "zero_init_residual": zero_init_residual}
    network: nn.Module
    if layers := PLAIN_LAYERS.get(architecture.base):
        network = ResNet(PlainBlock, list(layers), **values)
    else:
        network = get_model(architecture.base, **values)
    if architecture.image_size == 32:
        stem = conv3x3(3, 64)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network.register_module("conv1", stem)
        network.register_module("maxpool", nn.Identity())
    return network
