"""Weight files: a state dict in safetensors under torchvision's names, with metadata to use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from training.learning.networks import build_network, mirror_averaged
from training.learning.normalization import Normalization
from training.run.directory import RunDirectory, damaged_file_error

METADATA_KEY: Final = "resident"
BEST_WEIGHTS: Final = "best.safetensors"
LAST_WEIGHTS: Final = "last.safetensors"
INITIAL_WEIGHTS: Final = "start.safetensors"
PREVIOUS_WEIGHTS: Final = "previous.safetensors"


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network in evaluation mode.

    Attributes:
        network: The network that was trained.
        normalize: The normalization of its input.
        architecture: Its name, as for `--arch`.
        classes: Number of classes.
        epoch: The epoch of the weights, from 1.
        mirrored: Whether logits are the mean over an image and its mirror image.
    """

    network: nn.Module
    normalize: Normalization
    architecture: str
    classes: int
    epoch: int
    mirrored: bool = False

    @property
    def inference_network(self) -> nn.Module:
        """The network that is measured and published: averages mirror images if `mirrored`."""
        return (mirror_averaged(self.network) if self.mirrored else self.network).eval()


def serialise(trained: TrainedNetwork) -> bytes:
    """Return the bytes of a weight file; equal weights give equal bytes."""
    # contiguous(): safetensors refuses channels_last (safetensors#308)
    state = {
        name: value.detach().cpu().contiguous()
        for name, value in trained.network.state_dict().items()
    }
    metadata = {
        "architecture": trained.architecture,
        "normalization": trained.normalize.to_json(),
        "classes": trained.classes,
        "epoch": trained.epoch,
        "mirrored": trained.mirrored,
    }
    # One key only: safetensors writes several keys in random order.
    return save(state, metadata={METADATA_KEY: json.dumps(metadata)})


def is_weights_file(path: Path) -> bool:
    """Whether `serialise` wrote the file."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_weights(path: Path) -> TrainedNetwork:
    """Read a file that `serialise` wrote. Raises RunError if it is damaged or another format."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = json.loads((file.metadata() or {})[METADATA_KEY])
            # `safe_open` is no mapping.
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        architecture, classes = metadata["architecture"], metadata["classes"]
        network = build_network(architecture, classes)
        network.load_state_dict(state)
        return TrainedNetwork(
            network.eval(),
            Normalization.from_json(metadata["normalization"]),
            architecture,
            classes,
            metadata["epoch"],
            metadata.get("mirrored", False),
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise damaged_file_error(path, error) from None


def load_trained(run: RunDirectory) -> TrainedNetwork:
    """Return the selected weights of a run. Raises RunError if training has not finished."""
    run.file(LAST_WEIGHTS, "resume")
    return read_weights(run.file(BEST_WEIGHTS, "resume"))
