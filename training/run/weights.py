"""Weights on disk: a network's state dict in safetensors under torchvision's names, with what is needed to use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from training.learning.networks import build_network, mirror_averaged
from training.learning.normalization import Normalization
from training.run.directory import RunDirectory, damaged

METADATA_KEY: Final = "resident"
BEST_WEIGHTS: Final = "best.safetensors"
LAST_WEIGHTS: Final = "last.safetensors"
INITIAL_WEIGHTS: Final = "start.safetensors"
PREVIOUS_WEIGHTS: Final = "previous.safetensors"


@dataclass(frozen=True)
class Trained:
    """A trained network in evaluation mode, its normalisation, and the epoch (from 1) that its weights are of.

    `answering` is what is measured and published: the network, or the mean over an image and its mirror image.
    """

    network: nn.Module
    normalize: Normalization
    architecture: str
    classes: int
    epoch: int
    mirrored: bool = False

    @property
    def answering(self) -> nn.Module:
        """The network as it answers, in evaluation mode."""
        return (mirror_averaged(self.network) if self.mirrored else self.network).eval()


def serialise(trained: Trained) -> bytes:
    """A weights file; the same bytes for the same weights. Its metadata says what else there is to know, as JSON.

    Under one key: safetensors writes several in any order.
    """
    # contiguous(): safetensors refuses channels_last (safetensors#308)
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in trained.network.state_dict().items()
    }
    described = {
        "architecture": trained.architecture,
        "normalization": trained.normalize.to_json(),
        "classes": trained.classes,
        "epoch": trained.epoch,
        "mirrored": trained.mirrored,
    }
    return save(state, metadata={METADATA_KEY: json.dumps(described)})


def is_weights_file(path: Path) -> bool:
    """Whether the file is one that `serialise` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_weights(path: Path) -> Trained:
    """What `serialise` wrote. Raises RunError where the file is damaged or not of this project."""
    try:
        with safe_open(path, framework="pt") as file:
            described: dict[str, Any] = json.loads((file.metadata() or {})[METADATA_KEY])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no mapping
        architecture, classes = described["architecture"], described["classes"]
        network = build_network(architecture, classes)
        network.load_state_dict(state)
        return Trained(
            network.eval(),
            Normalization.from_json(described["normalization"]),
            architecture,
            classes,
            described["epoch"],
            described.get("mirrored", False),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged(path, error) from None


def load_trained(run: RunDirectory) -> Trained:
    """The weights that validation chose. Raises RunError where training has not come to its end."""
    run.file(LAST_WEIGHTS, "resume")
    return read_weights(run.file(BEST_WEIGHTS, "resume"))
