"""Reads the tensors of a torch checkpoint without running code, even if it has other objects.

torch's `weights_only` unpickler reads the file. Inert placeholders replace the classes that it does
not know, such as argparse.Namespace, numpy scalars and Lightning's objects.
"""

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import torch

from training.errors import InitialWeightsError

LEGACY_PICKLES: Final = 4  # magic number, protocol, system, and the saved object
_PYTHON_2_MODULES: Final = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # of protocol 2
_MAX_PLACEHOLDERS: Final = 1000


class Placeholder(list[Any]):
    """Replaces an object of a class that is not loaded; `full_name` names that class."""

    full_name = ""

    def __new__(cls, *_: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Ignore the object's attributes."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)  # a checkpoint may use the object as a key

    def __eq__(self, other: object) -> bool:
        return self is other


class _DictPlaceholder:
    """Loads a subclass of dict, such as Lightning's AttributeDict, as an OrderedDict."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def load_pickled_tensors(path: Path) -> Any:
    """Load what `torch.save` wrote, with a `Placeholder` for each object of an unknown class.

    Raises:
        InitialWeightsError: The file is a TorchScript archive, or was not written by `torch.save`.
        OSError, RuntimeError, pickle.UnpicklingError, …: The file is damaged.
    """
    if _is_torchscript(path):
        raise InitialWeightsError(
            f"{path} is a TorchScript archive, expected a state dict; save the tensors with "
            f'torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pth")'
        )
    placeholders: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_make_placeholder(name), name) for name in sorted(_unknown_globals(path))
    ]
    with torch.serialization.safe_globals(placeholders):
        return torch.load(path, weights_only=True, map_location="cpu")


def class_of(value: object) -> str:
    """Return the full name of a value's class, or of the class that a placeholder replaces."""
    if isinstance(value, Placeholder):
        return value.full_name
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _make_placeholder(full_name: str) -> Callable[..., Any]:
    if full_name.lower().endswith("dict"):
        return type("DictPlaceholder", (_DictPlaceholder,), {})
    return type("Placeholder", (Placeholder,), {"full_name": full_name})


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unknown_globals(path: Path) -> set[str]:
    """The full names of the classes and functions in the file that torch does not load itself."""
    if zipfile.is_zipfile(path):
        names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    else:
        names = _legacy_globals(path)
    if len(names) > _MAX_PLACEHOLDERS:
        raise pickle.UnpicklingError(f"it names {len(names)} classes")
    return names


def _legacy_globals(path: Path) -> set[str]:
    """Return all full names in a file from before torch 1.6, which has several pickles in a row."""
    names = set()
    with path.open("rb") as file:
        try:
            for _ in range(LEGACY_PICKLES):
                for opcode, argument, _position in pickletools.genops(file):
                    if opcode.name == "GLOBAL":
                        module, name = str(argument).split(" ")
                        names.add(f"{_PYTHON_2_MODULES.get(module, module)}.{name}")
        except ValueError:  # not a pickle; torch.load explains the file
            return set()
    return names
