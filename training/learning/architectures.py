"""The names of the networks, and what a name says. It imports no torch, so it is fast to import."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from training.errors import RecipeError

DEFAULT_ARCHITECTURE: Final = "resnet20"
CIFAR_DEPTHS: Final = (20, 32, 44, 56, 110, 1202)
PLAIN_LAYERS: Final = {"plain18": (2, 2, 2, 2), "plain34": (3, 4, 6, 3)}
"""Blocks per stage, as in `resnet18` and `resnet34`."""
IMAGENET: Final = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", *PLAIN_LAYERS),
)
TORCHVISION_NETWORKS: Final = tuple(name for name in IMAGENET if name not in PLAIN_LAYERS)
"""The residual classifiers of torchvision."""
NAMES: Final = (  # with the suffixes that each may have
    (tuple(f"resnet{depth}" for depth in CIFAR_DEPTHS), ("-b", "-c")),
    (tuple(f"preresnet{depth}" for depth in CIFAR_DEPTHS), ("-b",)),
    (tuple(f"plain{depth}" for depth in CIFAR_DEPTHS), ()),
    (IMAGENET, ("-small",)),
)


@dataclass(frozen=True)
class Architecture:
    """The parts of an architecture's name.

    Attributes:
        base: The name without its suffix.
        family: `resnet`, `plain`, `preresnet`, `wide_resnet` or `resnext`.
        depth: Number of layers with weights, projection shortcuts not counted.
        shortcut: Option A, B or C of He et al. 2015, section 4.1; None in plain networks.
        style: `cifar` networks have three stages, `imagenet` networks four.
        image_size: Default side of the input in pixels.
    """

    base: str
    family: str
    depth: int
    shortcut: Literal["A", "B", "C"] | None
    style: Literal["cifar", "imagenet"]
    image_size: int


def known_architectures() -> tuple[str, ...]:
    return tuple(
        base + suffix for bases, suffixes in NAMES for suffix in ("", *suffixes) for base in bases
    )


def describe_architectures() -> str:
    return "; ".join(
        ", ".join(bases) + (f" (and with {' or '.join(suffixes)})" if suffixes else "")
        for bases, suffixes in NAMES
    )


def parse_architecture(name: str) -> Architecture:
    """Parse a name.

    Raises:
        RecipeError: The name is unknown; the message lists all names.
    """
    if name not in known_architectures():
        raise RecipeError(
            f"there is no architecture {name!r}; use one of {describe_architectures()}"
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
    """Default side of a network's input in pixels. Raises RecipeError for an unknown name."""
    return parse_architecture(architecture).image_size
