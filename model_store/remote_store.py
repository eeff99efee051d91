"""A model store in an object store, such as S3.

The objects have the same layout as the files of a store on disk, with one more folder::

    <url>/<model>/<version>/manifest.json, model.onnx, …
    <url>/<model>/aliases/<alias>/00000001.json
    <url>/<model>/claims/<version>            which publisher may write that version

A publisher claims the next number first. Then it writes the files, and the manifest last: without
one, a version does not exist. Claims, manifests and events of aliases are written with conditional
writes, so nothing is overwritten and a crash leaves no half version.

Versions are served from the cache of this host, where each is verified before it is used.
"""

import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_store.aliases import Aliases
from model_store.errors import PublishError, StoreUnreadableError
from model_store.manifest import MANIFEST_NAME
from model_store.names import check_name, is_version_name
from model_store.pruning import PruneReport, needed_versions
from model_store.publishing import publish_version
from model_store.remote_aliases import RemoteAliases
from model_store.remote_objects import RemoteObjects
from model_store.store import BUILTIN_ROOT, ModelContents, ModelLocation, ModelStore
from model_store.version import Version
from model_store.version_cache import DEFAULT_CACHE_BYTES, FOLDER, VersionCache

if TYPE_CHECKING:  # elsewhere imported only when needed, because that takes 30 ms
    from model_store.signature import SigningKey, TrustedKeys

CLAIMS: Final = "claims"
ABANDONED_AFTER: Final = timedelta(days=1)


class RemoteModelStore(ModelStore):
    """The versions below a URL, over the built-in layer; see `ModelStore`.

    Args:
        url: As `ObjectStorage` takes it.
        cache: Cache directory of this host.
        builtin_root: The read-only layer, or None for none.
        signing_key: Signs what is published.
        trusted_keys: Only versions that one of them signed are opened, and the built-in ones.
        cache_max_bytes: Most bytes of versions in the cache; the least recently used are deleted.
            Versions that are open are never deleted.

    Raises:
        ValueError: The URL is not valid.
    """

    def __init__(
        self,
        url: str,
        cache: Path,
        builtin_root: Path | None = BUILTIN_ROOT,
        *,
        signing_key: "SigningKey | None" = None,
        trusted_keys: "TrustedKeys | None" = None,
        cache_max_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        super().__init__(
            cache / FOLDER, builtin_root, signing_key=signing_key, trusted_keys=trusted_keys
        )
        self._objects = RemoteObjects(url)
        self._cache = VersionCache(self._objects, cache, cache_max_bytes, trusted_keys)
        self._layers = [layer for layer in self._layers if layer[0] == "built-in"]

    @property
    def location(self) -> str:
        """The URL."""
        return self._objects.storage.url

    @property
    def absolute_location(self) -> str:
        """The URL."""
        return self.location

    @property
    def has_not_appeared(self) -> bool:
        """False: a bucket that is missing is an error."""
        return False

    def single_model(self) -> None:
        """None: a URL is always that of a store."""

    def exists(self) -> bool:
        """Whether the bucket can be read."""
        with suppress(StoreUnreadableError):
            self._objects.names()
            return True
        return False

    def create(self) -> None:
        """Check that the bucket can be read. Raises PublishError."""
        try:
            self._objects.names()
        except StoreUnreadableError as error:
            raise PublishError(str(error)) from error

    def contents(self) -> dict[str, ModelContents]:
        """As `ModelStore.contents`, from one listing."""
        contents = super().contents()  # of the built-in layer
        for model, numbers in self._objects.versions().items():
            contents[model] = ModelContents("published", tuple(sorted(numbers)))
        return dict(sorted(contents.items()))

    def aliases(self, model: str) -> Aliases:
        """The aliases of a model. A built-in model has none."""
        return RemoteAliases(model, self._objects)

    def open(self, model: str, version: int, *, verify: bool = True) -> Version:
        """As `ModelStore.open`. The version is downloaded unless it is in the cache."""
        if self._is_published(model, version):
            return self._cache.open(model, version, verify=verify)
        return super().open(model, version, verify=verify)  # built in, or an error

    def open_manifest(self, model: str, version: int) -> Version:
        """As `ModelStore.open_manifest`; downloads no other file."""
        if self._is_published(model, version):
            return self._cache.open_manifest(model, version)
        return super().open(model, version, verify=False)  # as above

    def publish(
        self, model: str, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
    ) -> int:
        """As `ModelStore.publish`: the version is sealed and checked on this host, then written.

        Raises:
            PublishError: It cannot be written. No version is added.
        """
        check_name(model)
        with tempfile.TemporaryDirectory(prefix="resident-publish-") as folder:
            local = Path(folder) / model
            sealed = local / str(publish_version(local, model, manifest, files, self._signing_key))
            try:
                number = self._claim(model)
                for path in sorted(sealed.rglob("*")):
                    name = path.relative_to(sealed).as_posix()
                    if path.is_file() and name != MANIFEST_NAME:
                        self._objects.storage.upload(f"{model}/{number}/{name}", path)
                data = (sealed / MANIFEST_NAME).read_bytes()
                self._objects.create(f"{model}/{number}/{MANIFEST_NAME}", data)
            except (StoreUnreadableError, OSError) as error:
                raise PublishError(
                    f"publishing {model} failed: {error}. No version was added"
                ) from error
        return number

    def prune(self, model: str, keep: int = 3, *, dry_run: bool = False) -> PruneReport:
        """As `ModelStore.prune`. Services that have a deleted version keep their copy.

        The leftovers are versions that were begun more than a day ago and have no manifest.
        """
        self._require_published(model)
        versions = self.versions(model)
        kept = needed_versions(versions, self.aliases(model), keep)
        deleted = [number for number in versions if number not in kept]
        leftovers = self._leftovers(model)
        if not dry_run:
            for number in deleted:
                # First: without a manifest, the version does not exist.
                self._objects.storage.delete(f"{model}/{number}/{MANIFEST_NAME}")
            for number in [*deleted, *leftovers]:
                for name in self._objects.storage.names(f"{model}/{number}"):
                    self._objects.storage.delete(name)
            self._objects.forget_listing()
        return PruneReport(tuple(deleted), kept, tuple(map(str, leftovers)))

    def _locate(self, model: str) -> ModelLocation:
        numbers = self._objects.versions().get(check_name(model))
        if numbers is None:
            return super()._locate(model)
        return ModelLocation(
            "published", {number: Path(f"{model}/{number}") for number in sorted(numbers)}
        )

    def _is_published(self, model: str, version: int) -> bool:
        return version in self._objects.versions().get(check_name(model), ())

    def _claim(self, model: str) -> int:
        """Reserve the next number, so that no other publisher writes below it."""
        owner = secrets.token_hex(16)
        while True:
            self._objects.forget_listing()
            folders = (name.split("/") for name in self._objects.names_below(model))
            numbers = (parts[1] if parts[0] == CLAIMS else parts[0] for parts in folders)
            taken = [int(number) for number in numbers if is_version_name(number)]
            number = max(taken, default=0) + 1
            if not is_version_name(str(number)):
                raise PublishError(f"{model} has no version number left after {max(taken)}")
            with suppress(FileExistsError):
                self._objects.create(f"{model}/{CLAIMS}/{number}", owner.encode())
                return number

    def _leftovers(self, model: str) -> list[int]:
        newest: dict[int, datetime] = {}
        complete = set(self._objects.versions().get(model, ()))
        for name, written in self._objects.names().items():
            parts = name.split("/")
            if parts[0] == model and len(parts) > 2 and is_version_name(parts[1]):
                number = int(parts[1])
                newest[number] = max(newest.get(number, written), written)
        before = datetime.now(UTC) - ABANDONED_AFTER
        return [number for number, at in newest.items() if number not in complete and at < before]
