"""Initial weights of a run: from torchvision, from a file, or from a version of the store."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from model_store.sealed_model import open_files
from model_store.store import ModelStore
from model_store.version import Version
from training.errors import InitialWeightsError
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.directory import Run
from training.run.foreign_weights import (
    download_torchvision_weights,
    read_foreign_weights,
)
from training.run.initial_reference import (
    TORCHVISION,
    names_weights_file,
    open_version,
    require_checkpoint,
)
from training.run.known_images import (
    KNOWN_IMAGES_FILE,
    NOT_RECORDED,
    known_images_of_weights,
    records_known_images,
)
from training.run.weights import (
    INITIAL_WEIGHTS,
    TrainedNetwork,
    is_weights_file,
    read_weights,
    serialise,
)

HEAD_PARAMETERS: Final = ("fc.weight", "fc.bias")
_STEM: Final = "conv1.weight"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a run starts from.

    Attributes:
        origin: Where they come from, as the user gave it.
        state: Tensors by torchvision's names.
        normalize: The normalization that the network expects.
        architecture: The name of the network; None if the file does not say.
        class_names: The class of each row of the head; empty if unknown.
        changes: What reading the file changed, one sentence each.
        known_images: The content of `known_images.npy`: images that the weights were trained on.
            None if they are not recorded.
    """

    origin: str
    state: Mapping[str, Tensor]
    normalize: Normalization
    architecture: str | None = None
    class_names: Sequence[str] = ()
    changes: tuple[str, ...] = ()
    known_images: bytes | None = None

    def changes_for(self, architecture: str) -> tuple[str, ...]:
        """What differs between the file and the network, and whether a record is missing."""
        changes = list(self.changes)
        with torch.device("meta"):
            own = build_network(architecture, 1).state_dict()
        if _has_new_stem(self.state, own, architecture):
            changes.append(
                f"initialised {_STEM} anew: the first convolution of {architecture} has another "
                "size"
            )
        if self.known_images is None:
            changes.append(NOT_RECORDED)
        return tuple(changes)

    def fit(self, architecture: str, class_names: Sequence[str]) -> TrainedNetwork:
        """Return the network with a head for `class_names`.

        Raises:
            InitialWeightsError: The weights belong to another network.
        """
        if self.architecture is not None and self.architecture != architecture:
            raise InitialWeightsError(
                f"{self.origin} is a {self.architecture}, not a {architecture}: "
                f"give --arch {self.architecture}"
            )
        return fit_head(
            self.state, self.class_names, self.normalize, architecture, class_names, self.origin
        )


def load_initial_weights(start: str, architecture: str, store: ModelStore) -> InitialWeights:
    """Read the weights that `--start` names.

    Args:
        start: `torchvision`, a weight file, MODEL or MODEL/VERSION.
        architecture: The network to download from torchvision.
        store: Where versions are looked up.

    Raises:
        InitialWeightsError: They cannot be read or downloaded.
        ModelStoreError: There is no such version.
    """
    if start == TORCHVISION:
        state = download_torchvision_weights(architecture)
        return InitialWeights(start, state, Normalization.imagenet(), architecture)
    if names_weights_file(start):
        path = Path(start).expanduser()
        if not is_weights_file(path):
            read = read_foreign_weights(path)
            return InitialWeights(start, read.state, Normalization.imagenet(), changes=read.changes)
        trained, record = read_weights(path), known_images_of_weights(path)
        class_names: tuple[str, ...] = ()
        known_images = None if record is None else record.read_bytes()
    else:
        with open_version(store, start) as version:
            trained, class_names = read_checkpoint(version), version.manifest.class_names
            known_images = read_known_images_of(version)
    return InitialWeights(
        start,
        trained.network.state_dict(),
        trained.normalize,
        trained.architecture,
        class_names,
        known_images=known_images,
    )


def write_initial_weights(run: Run, initial: TrainedNetwork, known_images: bytes | None) -> None:
    """Write the weights that the run starts from, and the images that they were trained on."""
    run.write(INITIAL_WEIGHTS, serialise(initial))
    if known_images is not None:
        run.write(KNOWN_IMAGES_FILE, known_images)


def read_known_images_of(version: Version) -> bytes | None:
    """Return the content of the version's `known_images.npy`; None if it has none."""
    return version.read_file(KNOWN_IMAGES_FILE) if records_known_images(version) else None


def fit_head(
    state: Mapping[str, Tensor],
    old_names: Sequence[str],
    normalize: Normalization,
    architecture: str,
    class_names: Sequence[str],
    origin: str,
) -> TrainedNetwork:
    """Build the network with these weights and a head for `class_names`.

    The head keeps the rows of classes in `old_names`. Its other rows have random initial values.

    Raises:
        InitialWeightsError: The weights belong to another network.
    """
    network = build_network(architecture, len(class_names))
    own = network.state_dict()
    body = {name: value for name, value in state.items() if not name.startswith("fc.")}
    new_stem = _has_new_stem(body, own, architecture)
    if new_stem:
        body.pop(_STEM, None)
    _require_same_network(body, own, architecture, origin, {_STEM} if new_stem else set())
    network.load_state_dict(body, strict=False)
    with torch.no_grad():
        for new, name in enumerate(class_names):
            if name in old_names:
                for part in HEAD_PARAMETERS:
                    network.get_parameter(part)[new] = state[part][list(old_names).index(name)]
    return TrainedNetwork(network, normalize, architecture, len(class_names), 0)


def _has_new_stem(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], architecture: str
) -> bool:
    """Whether the first convolution of a small-image network cannot come from `state`."""
    if not architecture.endswith("-small"):
        return False
    return _STEM not in state or state[_STEM].shape != own[_STEM].shape


def _require_same_network(
    body: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    architecture: str,
    origin: str,
    initialised: AbstractSet[str],
) -> None:
    # Files from before torch 0.4.1 do not have the counters.
    expected = [
        name
        for name in own
        if name not in {*HEAD_PARAMETERS, *initialised}
        and (name in body or not name.endswith(".num_batches_tracked"))
    ]
    problems = [
        *(
            f"{name} has another shape"
            for name in sorted(expected)
            if name in body and own[name].shape != body[name].shape
        ),
        *(f"{name} is missing" for name in sorted(expected) if name not in body),
        *(f"{name} is not part of the network" for name in sorted(body.keys() - own.keys())),
    ]
    if problems:
        raise InitialWeightsError(
            f"{origin} does not contain a {architecture}: {problems[0]} (torchvision's names are "
            "expected)"
        )


def read_checkpoint(version: Version) -> TrainedNetwork:
    """Return the weights of a version.

    Raises:
        InitialWeightsError: It was published without them.
    """
    block = require_checkpoint(version)
    with open_files(version, [block.file]) as paths:
        return read_weights(paths[block.file])
