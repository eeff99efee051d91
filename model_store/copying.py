"""Copy versions from one store into another: backup, restore, and promotion between machines."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_store.store import ModelStore


@dataclass(frozen=True)
class CopiedVersion:
    """A version of the source, and its number in the destination.

    Attributes:
        model: Name of the model.
        source: Version number in the source.
        destination: Version number in the destination.
        is_new: False if the destination had this version before.
    """

    model: str
    source: int
    destination: int
    is_new: bool


def copy_versions(
    source: ModelStore, destination: ModelStore, models: Sequence[str] = ()
) -> Iterator[CopiedVersion]:
    """Publish the versions of `source` in `destination`, oldest first.

    A version is skipped if the destination has a version with the same digest. A copy gets the
    next version number and keeps its manifest, so its digest stays the same. Aliases are not
    copied: `promote` decides what the destination serves.

    Args:
        source: The store to read. Every file is compared with its sealed sha256.
        destination: The store to write.
        models: Names of the models; none means all.

    Raises:
        ModelNotFoundError: The source does not have this model.
        ModelStoreError: A version cannot be read or published. Earlier copies stay.
    """
    for model in models or source.models():
        known = _numbers_by_digest(destination, model)
        for number in source.versions(model):
            with source.open(model, number) as version:
                copied = known.get(version.digest)
                if copied is None:
                    fields = version.manifest.model_dump(exclude={"files", "model"})
                    files = {
                        entry.path: version.path(entry.path) for entry in version.manifest.files
                    }
                    copied = destination.publish(model, fields, files)
                yield CopiedVersion(model, number, copied, version.digest not in known)


def _numbers_by_digest(store: ModelStore, model: str) -> dict[str, int]:
    if model not in store.contents():
        return {}
    numbers = {}
    for number in store.versions(model):
        with store.open_manifest(model, number) as version:
            numbers[version.digest] = number
    return numbers
