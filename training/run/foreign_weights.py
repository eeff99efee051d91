"""Weights of other projects: torchvision's downloads, and files with torchvision's names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from training.errors import InitialWeightsError
from training.run.initial_reference import require_pretrained
from training.run.parameter_names import (
    AmbiguousNamesError,
    RenamedTensors,
    use_torchvision_names,
)
from training.run.pickled_tensors import Placeholder, class_of, load_pickled_tensors
from training.run.unreadable_weights import describe_unreadable

# keys under which training scripts store a state dict
_STATE_DICT_KEYS: Final = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
)


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
    weights = get_model_weights(require_pretrained(architecture)).DEFAULT
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise InitialWeightsError(
            f"torchvision's {architecture} could not be downloaded ({error}). Fetch {weights.url} "
            f"on a machine with network access, and give the file: {option}"
        ) from None
    return state


def read_foreign_weights(path: Path) -> RenamedTensors:
    """Read the tensors of a .safetensors or torch file, by torchvision's names.

    Never runs code from the file.

    Raises:
        InitialWeightsError: The file is missing, damaged or not a state dict.
    """
    try:
        content: Any = load_file(path) if _is_safetensors(path) else load_pickled_tensors(path)
    except FileNotFoundError:
        raise InitialWeightsError(f"there is no file {path}") from None
    except InitialWeightsError:
        raise
    except Exception as error:  # noqa: BLE001  torch's unpickler raises any type
        raise InitialWeightsError(describe_unreadable(path, error)) from None
    state, changes = _find_state_dict(path, content)
    try:
        renamed = use_torchvision_names(state)
    except AmbiguousNamesError as error:
        raise InitialWeightsError(f"{path}: {error}") from None
    return RenamedTensors(renamed.state, (*changes, *renamed.changes))


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() == ".safetensors"


def _find_state_dict(path: Path, content: Any) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the state dict in a checkpoint, and a sentence if other content was ignored."""
    state, places = content, []
    for key in _STATE_DICT_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping | Placeholder):
            state = state[key]
            places.append(key)
    if isinstance(state, Mapping):
        strangers = [(name, value) for name, value in state.items() if not _is_entry(name, value)]
        if state and not strangers:
            others = isinstance(content, Mapping) and len(content) > 1
            found = f"read the tensors under {'.'.join(places)}, and nothing else of the file"
            return state, (found,) if places and others else ()
        problem = "is empty"
        if strangers:
            name, value = strangers[0]
            problem = f"holds {name!r}, a {class_of(value)}"
    else:
        problem = f"holds a {class_of(state)}"
    raise InitialWeightsError(
        f"{path} {problem}, expected a state dict (tensors by name); where the file was made, save "
        'torch.save(network.state_dict(), "weights.pth")'
    )


def _is_entry(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)
