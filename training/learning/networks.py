"""Networks by name: residual, plain and pre-activation networks, and torchvision's.

All networks have torchvision's names (`conv1`, `bn1`, `layer1`, ..., `avgpool`, `fc`), and their
children are registered in the order in which they run. The children before `avgpool` compute the
last feature map.
"""

import copy
import itertools
from collections import OrderedDict
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock, ResNet, conv1x1, conv3x3

from training.errors import RecipeError
from training.learning.architectures import PLAIN_LAYERS, Architecture, parse_architecture
from training.learning.blocks import (
    MirrorMean,
    MultiplyAdd,
    PlainBlock,
    PreactivationBlock,
    ZeroPaddedShortcut,
)


def build_network(
    architecture: str, classes: int, *, zero_init_residual: bool = False
) -> nn.Module:
    """Build an untrained network: float `[n, 3, h, w]` to logits `[n, classes]`.

    Networks of 20, 32, 44, 56, 110 and 1202 layers are those of He et al. 2015, section 4.2, with
    shortcuts of option A; the suffix `-b` uses projections where sizes change, `-c` everywhere.
    `preresnet` networks are those of He et al. 2016. The others are torchvision's, plus `plain18`
    and `plain34`, which have no shortcuts. The suffix `-small` gives them a stem for small images:
    a 3x3 convolution of stride 1 and no pooling.

    Convolutions have He initialization (He et al. 2015, "Delving Deep into Rectifiers", section
    2.2), by fan-in in CIFAR networks and by fan-out in torchvision's. The head's bias is zero.

    Args:
        architecture: One of `known_architectures()`.
        classes: Number of classes.
        zero_init_residual: Start every residual branch at zero (Goyal et al. 2017, section 5.1):
            the last norm of each branch or, in pre-activation networks, the last convolution.

    Raises:
        RecipeError: The name is unknown, or a plain network has `zero_init_residual`.
    """
    parsed = parse_architecture(architecture)
    if zero_init_residual and parsed.shortcut is None:
        raise RecipeError(
            f"{architecture} has no shortcuts, so zero_init_residual would block every signal"
        )
    build = _build_cifar if parsed.style == "cifar" else _build_imagenet
    network = build(parsed, classes, zero_init_residual=zero_init_residual)
    nn.init.zeros_(network.get_parameter("fc.bias"))
    return network


def features(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature map, float `[n, channels, h, w]`, of images `[n, 3, h, w]`."""
    for name, child in network.named_children():
        if name == "avgpool":
            break
        images = child(images)
    return images


def classify(network: nn.Module, last_map: Tensor) -> Tensor:
    """Logits `[n, classes]` of a feature map: global average pooling and the last layer."""
    logits: Tensor = network.get_submodule("fc")(pool(last_map))
    return logits


def pool(last_map: Tensor) -> Tensor:
    """Mean over height and width: `[n, channels, h, w]` to `[n, channels]`."""
    return last_map.mean((2, 3))  # exports as one node, avgpool does not


def mirror_averaged(network: nn.Module) -> nn.Module:
    """Make a network that averages over each image and its mirror image, with shared weights.

    The feature maps are averaged. The last layer is linear, so that this averages the logits too,
    and class activation maps stay valid.
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
    """All parameters with their names, by depth: the stem, each stage, the last layer (`fc`)."""
    groups: list[list[tuple[str, nn.Parameter]]] = [[]]
    for name, child in network.named_children():
        if name.startswith("layer") or name == "fc":
            groups.append([])
        groups[-1] += child.named_parameters(prefix=name)
    return groups


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode without batch norms.

    A norm after a convolution is folded into its weights; other norms become `MultiplyAdd`. The
    ONNX exporter folds norms too, but not in a mirrored network, which uses each convolution twice.
    """
    folded = copy.deepcopy(network).eval()
    for parent in list(folded.modules()):
        previous: tuple[str, nn.Module] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                if previous is not None and isinstance(previous[1], nn.Conv2d):
                    parent.register_module(previous[0], fuse_conv_bn_eval(previous[1], child))
                    parent.register_module(name, nn.Identity())
                else:
                    parent.register_module(name, MultiplyAdd(child))
            previous = (name, child)
    return folded


def _build_cifar(
    architecture: Architecture, classes: int, *, zero_init_residual: bool
) -> nn.Sequential:
    """6n + 2 layers: three stages of n blocks with 16, 32, 64 filters on 32, 16, 8 pixels.

    Source: He et al. 2015, section 4.2.
    """
    is_preactivation = architecture.family == "preresnet"
    stem: dict[str, nn.Module] = {"conv1": conv3x3(3, 16)}
    norm: dict[str, nn.Module] = {
        "bn1": nn.BatchNorm2d(64 if is_preactivation else 16),
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
    body = stages | norm if is_preactivation else norm | stages
    network = nn.Sequential(OrderedDict(stem | body | head))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # torch's default initialization has a 2.4 times smaller deviation.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if zero_init_residual:
        last = "conv2.weight" if is_preactivation else "bn2.weight"
        for name, parameter in network.named_parameters():
            if name.endswith(last):
                nn.init.zeros_(parameter)
    return network


def _stage(architecture: Architecture, inplanes: int, planes: int) -> nn.Sequential:
    """Build blocks of `planes` filters. The first one halves the map if `planes > inplanes`."""
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
    """Torchvision's network; a plain one is torchvision's `ResNet` with another block."""
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
