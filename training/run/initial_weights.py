"""Trained weights to begin with: torchvision's, a file of them, or a version of the store; their head made to fit.

They are laid into the run's directory once, so that what follows depends on nothing outside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from model_store.store import ModelStore
from model_store.version import Version
from training.errors import InitialWeightsError
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.directory import RunDirectory
from training.run.weights import INITIAL_WEIGHTS, Trained, is_weights_file, read_weights, serialise

TORCHVISION: Final = "torchvision"
HEAD_PARAMETERS: Final = ("fc.weight", "fc.bias")
_FILES: Final = frozenset({".safetensors", ".pth", ".pt", ".bin"})
_WRAPPINGS: Final = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
)  # what training scripts put around a state dict


def lay_start(run: RunDirectory, store: ModelStore, class_names: Sequence[str]) -> None:
    """Write the weights that the run's config names to `start.safetensors`, their head made for `class_names`.

    A version and a file of this project bring their normalisation along, others are taken to expect ImageNet's. Does nothing
    where the config names none. Raises InitialWeightsError where they can not be had or are another network's.
    """
    start, architecture = run.config().start, run.config().architecture
    if start is None:
        return
    names: Sequence[str] = ()
    if start == TORCHVISION:
        state, normalize = download_torchvision_weights(architecture), Normalization.imagenet()
    elif own := _from_own(start, store):
        trained, names = own
        if trained.architecture != architecture:
            raise InitialWeightsError(
                f"{start} is a {trained.architecture}, not a {architecture}: give --arch {trained.architecture}"
            )
        state, normalize = trained.network.state_dict(), trained.normalize
    else:
        state, normalize = read_state_dict(Path(start)), Normalization.imagenet()
    run.write(
        INITIAL_WEIGHTS,
        serialise(fit_head(state, names, normalize, architecture, class_names, start)),
    )


def architecture_of(start: str | None, store: ModelStore) -> str | None:
    """The network that these weights are of, where they say so: a version and a file of this project do. Raises InitialWeightsError."""
    own = None if start in {None, TORCHVISION} else _from_own(str(start), store)
    return own and own[0].architecture


def fit_head(
    state: Mapping[str, Tensor],
    old_names: Sequence[str],
    normalize: Normalization,
    architecture: str,
    class_names: Sequence[str],
    origin: str,
) -> Trained:
    """The network with a head for `class_names`: the rows of classes that it knew are kept, the others begin anew.

    Raises InitialWeightsError where the weights are another network's.
    """
    network = build_network(architecture, len(class_names))
    own = network.state_dict()
    body = {name: value for name, value in state.items() if name not in HEAD_PARAMETERS}
    if (
        architecture.endswith("-small")
        and body.get("conv1.weight", own["conv1.weight"]).shape != own["conv1.weight"].shape
    ):
        del body[
            "conv1.weight"
        ]  # the small-image stem has another first convolution, which begins anew
    wrong = sorted(
        name
        for name in own
        if name not in HEAD_PARAMETERS and name in body and own[name].shape != body[name].shape
    )
    missing = sorted(
        name
        for name in own
        if name not in HEAD_PARAMETERS and name not in body and not _may_be_missing(name)
    )
    if wrong or missing or (unknown := sorted(body.keys() - own.keys())):
        problem = (
            f"{wrong[0]} has another shape"
            if wrong
            else f"{missing[0]} is missing"
            if missing
            else f"{unknown[0]} is not in it"
        )
        raise InitialWeightsError(
            f"{origin} does not hold a {architecture}: {problem} (torchvision's names are expected)"
        )
    network.load_state_dict(body, strict=False)
    with torch.no_grad():
        for new, name in enumerate(class_names):
            if name in old_names:
                for part in HEAD_PARAMETERS:
                    network.get_parameter(part)[new] = state[part][list(old_names).index(name)]
    return Trained(network, normalize, architecture, len(class_names), 0)


def _may_be_missing(name: str) -> bool:
    """A stem that begins anew, and the counters that files of before torch 0.4.1 do not have."""
    return name == "conv1.weight" or name.endswith(".num_batches_tracked")


def _from_own(start: str, store: ModelStore) -> tuple[Trained, Sequence[str]] | None:
    """The weights and class names (none of a file) of a version or a file of this project; None where it is another's file."""
    if Path(start).suffix in _FILES:
        return (read_weights(Path(start)), ()) if is_weights_file(Path(start)) else None
    with open_version(store, start) as version:
        return read_checkpoint(version), version.manifest.class_names


def open_version(store: ModelStore, reference: str) -> Version:
    """The version that MODEL or MODEL/VERSION names; without a version the one that `production` names, else the newest."""
    model, _, version = reference.partition("/")
    return store.open(model, store.resolve(model, version or None))


def read_checkpoint(version: Version) -> Trained:
    """The weights to retrain from. Raises InitialWeightsError where the version holds none."""
    block = version.manifest.checkpoint
    if block is None:
        raise InitialWeightsError(
            f"{version} was published without its weights, so it can not be trained on; train a new one"
        )
    return read_weights(version.path(block.file))


def download_torchvision_weights(
    architecture: str, option: str = "--start FILE"
) -> Mapping[str, Tensor]:
    """Torchvision's newest weights. Raises InitialWeightsError, which says where to fetch them and which option then takes the file."""
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
            f"torchvision's {architecture} could not be downloaded ({error}); fetch {weights.url} where there is a network, "
            f"and give the file: {option}"
        ) from None
    return state


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a .safetensors or .pth file by name; never loads code. Raises InitialWeightsError."""
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, weights_only=True, map_location="cpu")
        )
    except FileNotFoundError:
        raise InitialWeightsError(f"there is no file {path}") from None
    except Exception as error:  # noqa: BLE001 (torch's unpickler raises whatever it stumbles over)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InitialWeightsError(
            f"{path} can not be read as weights: {reason}; only tensors are loaded, never code"
        ) from None
    for wrapping in _WRAPPINGS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapping), Mapping):
            state = state[wrapping]
    named = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not named or not state:
        raise InitialWeightsError(f"{path} does not hold a state dict, which is names with tensors")
    return {name.removeprefix("module."): value for name, value in state.items()}
