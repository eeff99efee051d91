"""The version that `retrain` trains further: its weights, and the values that the run inherits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model_store.manifest import Preprocessing
from model_store.provenance import VersionReference
from model_store.store import ModelStore
from training.run.directory import Run
from training.run.initial_reference import open_version, rename_classes
from training.run.initial_weights import (
    InitialWeights,
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
        renamed = rename_classes(self.reference.model, self.class_names, changes)
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
