"""Weights of other projects: torchvision's downloads, and files with torchvision's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from training.errors import InitialWeightsError

# keys under which training scripts store a state dict
_STATE_DICT_KEYS: Final = ("state_dict", "model", "model_state_dict", "net")


def download_torchvision_weights(
    architecture: str, option: str = "--start FILE"
) -> Mapping[str, Tensor]:
    """Return torchvision's newest weights.

    Args:
        architecture: The network.
        option: The command-line option that takes a downloaded file, for the error message.

    Raises:
        InitialWeightsError: torchvision has none, or the download failed.
    """
    name = architecture.removesuffix("-small")
    try:
        weights = get_model_weights(name).DEFAULT
    except ValueError:
        raise InitialWeightsError(
            f"torchvision has no pretrained {architecture}; it has resnet18, resnet34, resnet50, …"
        ) from None
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InitialWeightsError(
            f"torchvision's {architecture} could not be downloaded ({error}). Fetch {weights.url} "
            f"on a machine with network access, and give the file: {option}"
        ) from None
    return state


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a .safetensors or .pth file by name; never runs code from it.

    Raises:
        InitialWeightsError: The file is missing, damaged or not a state dict.
    """
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except FileNotFoundError:
        raise InitialWeightsError(f"there is no file {path}") from None
    except Exception as error:  # noqa: BLE001  torch's unpickler raises any type
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InitialWeightsError(
            f"{path} cannot be read as weights: {reason}. Only tensors are loaded, never code"
        ) from None
    for key in _STATE_DICT_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    is_state_dict = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not is_state_dict or not state:
        raise InitialWeightsError(f"{path} does not hold a state dict (tensors by name)")
    return {name.removeprefix("module."): value for name, value in state.items()}
