"""Finds what `--start` and `retrain` name: torchvision, a weights file, or a version of the store.

Nothing here imports torch, so that commands check these options before they load it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from model_store.command_line import as_called
from model_store.manifest import Checkpoint
from model_store.names import is_name
from model_store.store import ModelStore
from model_store.version import Version
from training.data.image_set import class_name
from training.errors import InitialWeightsError
from training.learning.architectures import TORCHVISION_NETWORKS

TORCHVISION: Final = "torchvision"
_FILE_SUFFIXES: Final = frozenset(
    {
        *(".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".th"),
        *(".h5", ".keras", ".npz", ".onnx"),  # unsupported, but not names of models either
    }
)


def names_weights_file(text: str) -> bool:
    """Whether `text` names a file rather than MODEL or MODEL/VERSION of a store."""
    path = Path(text)
    model, _, version = text.partition("/")
    is_reference = is_name(model) and (is_name(version) or text == model)
    return not is_reference or path.suffix.lower() in _FILE_SUFFIXES or path.is_file()


def open_version(store: ModelStore, reference: str, *, verify: bool = True) -> Version:
    """Open MODEL/VERSION, or the version of MODEL that serves."""
    model, _, version = reference.partition("/")
    return store.open(model, store.resolve(model, version or None), verify=verify)


def require_checkpoint(version: Version) -> Checkpoint:
    """Return where a version holds its weights.

    Raises:
        InitialWeightsError: It was published without them.
    """
    checkpoint = version.manifest.checkpoint
    if checkpoint is None:
        raise InitialWeightsError(
            f"{version} was published without its weights, so it cannot be trained further. "
            "Train a new model"
        )
    return checkpoint


def require_pretrained(architecture: str) -> str:
    """Return torchvision's name of a network. Raises InitialWeightsError if it has no weights."""
    name = architecture.removesuffix("-small")
    if name not in TORCHVISION_NETWORKS:
        raise InitialWeightsError(
            f"torchvision has no pretrained {architecture}; choose one of "
            f"{', '.join(TORCHVISION_NETWORKS)}"
        )
    return name


def require_initial_weights(start: str, architecture: str, store: ModelStore) -> None:
    """Check that what `--start` names exists. Reads no weights.

    Raises:
        InitialWeightsError: It is not there, or the version was published without its weights.
        ModelStoreError: There is no such version.
    """
    if start == TORCHVISION:
        require_pretrained(architecture)
    elif names_weights_file(start):
        if not Path(start).expanduser().is_file():
            raise InitialWeightsError(f"there is no file {start}")
    else:
        with open_version(store, start, verify=False) as version:
            require_checkpoint(version)


def rename_classes(
    model: str, class_names: Sequence[str], changes: Sequence[str]
) -> tuple[str, ...]:
    """Return the classes of a model with other names, at the same positions.

    Args:
        model: The name of the model, for messages.
        class_names: Its classes.
        changes: OLD=NEW each.

    Raises:
        InitialWeightsError: A change is not OLD=NEW with a class of the model, or two classes
            would have the same name.
    """
    names: dict[str, str] = {}
    for change in changes:
        pairs = [
            (change[:cut], change[cut + 1 :])
            for cut, character in enumerate(change)
            if character == "=" and change[:cut] in class_names
        ]
        new = class_name(pairs[0][1]) if pairs else None
        if new is None:
            raise InitialWeightsError(
                f"--rename must be OLD=NEW with a class of {model}, got "
                f"{change!r}; its classes are {', '.join(class_names[:8])}"
                f"{', …' if class_names[8:] else ''}"
            )
        names[pairs[0][0]] = new
    renamed = tuple(names.get(name, name) for name in class_names)
    if twice := sorted({name for name in renamed if renamed.count(name) > 1}):
        raise InitialWeightsError(
            f"--rename would give the name {twice[0]} to two classes; a retrained model keeps "
            "its classes apart. To merge classes, train a new model: "
            f"{as_called('training run')} --data PICTURES --start {model}"
        )
    return renamed
