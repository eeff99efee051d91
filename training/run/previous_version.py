"""The version that `retrain` trains further: its weights, and the values that the run inherits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model_store.manifest import Preprocessing
from model_store.provenance import VersionReference
from model_store.store import ModelStore
from training.data.image_set import class_name
from training.errors import InitialWeightsError
from training.run.directory import Run
from training.run.initial_weights import (
    InitialWeights,
    open_version,
    read_checkpoint,
    read_known_images_of,
)
from training.run.weights import PREVIOUS_WEIGHTS, TrainedNetwork, serialise


@dataclass(frozen=True)
class PreviousVersion:
    """The version that a run retrains: its weights and the values that the run inherits."""

    reference: VersionReference
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    trained: TrainedNetwork
    known_images: bytes | None
    """The content of `known_images.npy`, if the version has one."""

    @property
    def initial_weights(self) -> InitialWeights:
        return InitialWeights(
            f"{self.reference.model}/{self.reference.version}",
            self.trained.network.state_dict(),
            self.trained.normalize,
            self.trained.architecture,
            self.class_names,
            known_images=self.known_images,
        )

    def renamed(self, changes: Sequence[str]) -> "PreviousVersion":
        """Return the version with other names of classes, which keep their positions.

        Args:
            changes: OLD=NEW each.

        Raises:
            InitialWeightsError: A change is not OLD=NEW with a class of the version, or two classes
                would have the same name.
        """
        names: dict[str, str] = {}
        for change in changes:
            pairs = [
                (change[:cut], change[cut + 1 :])
                for cut, character in enumerate(change)
                if character == "=" and change[:cut] in self.class_names
            ]
            new = class_name(pairs[0][1]) if pairs else None
            if new is None:
                raise InitialWeightsError(
                    f"--rename must be OLD=NEW with a class of {self.reference.model}, got "
                    f"{change!r}; its classes are {', '.join(self.class_names[:8])}"
                    f"{', …' if self.class_names[8:] else ''}"
                )
            names[pairs[0][0]] = new
        renamed = tuple(names.get(name, name) for name in self.class_names)
        if twice := sorted({name for name in renamed if renamed.count(name) > 1}):
            raise InitialWeightsError(
                f"--rename would give the name {twice[0]} to two classes; a retrained model keeps "
                "its classes apart. To merge classes, train a new model: python -m training run "
                "--data NEW --start MODEL"
            )
        return replace(self, class_names=renamed)

    def write(self, run: Run) -> None:
        """Write the weights that a later step of the run compares with."""
        run.write(PREVIOUS_WEIGHTS, serialise(replace(self.trained, epoch=0)))


def load_previous_version(reference: str, store: ModelStore) -> PreviousVersion:
    """Read MODEL (the version that `production` names) or MODEL/VERSION, to retrain it.

    Raises:
        InitialWeightsError: The version was published without its weights.
        ModelStoreError: There is no such version.
    """
    with open_version(store, reference) as version:
        manifest = version.manifest
        return PreviousVersion(
            VersionReference(model=version.model, version=version.number, digest=version.digest),
            manifest.class_names,
            manifest.preprocessing,
            read_checkpoint(version),
            read_known_images_of(version),
        )
