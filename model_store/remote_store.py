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

import hashlib
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from model_store.aliases import DIRECTORY_NAME, MAX_EVENT_BYTES, Aliases
from model_store.errors import (
    AliasError,
    FileMissingError,
    ManifestError,
    ModelNotFoundError,
    PublishError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.host_cache import build_entry, mark_used, open_host_cache, prune_entries
from model_store.manifest import MANIFEST_NAME, SIGNATURE_NAME, Manifest
from model_store.names import check_name, is_name, is_version_name
from model_store.object_storage import ObjectStorage, ObjectTooLargeError
from model_store.pruning import PruneReport, needed_versions
from model_store.publishing import publish_version
from model_store.store import BUILTIN_ROOT, ModelContents, ModelStore
from model_store.version import MAX_MANIFEST_BYTES, SIGNATURE_BYTES, Version

if TYPE_CHECKING:  # elsewhere imported only when needed, because that takes 30 ms
    from model_store.signature import SigningKey, TrustedKeys

CLAIMS: Final = "claims"
FOLDER: Final = "versions"
"""Folder in the cache directory."""
DEFAULT_CACHE_BYTES: Final = 16 * 1024**3
LISTING_SECONDS: Final = 1.0
"""How long a listing is reused. One check of the store needs it several times."""
ABANDONED_AFTER: Final = timedelta(days=1)
OPEN_ATTEMPTS: Final = 3


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
        self._storage = ObjectStorage(url)
        self._cache = cache
        self._cache_max_bytes = cache_max_bytes
        self._listing: tuple[float, dict[str, datetime]] | None = None
        self._layers = [layer for layer in self._layers if layer[0] == "built-in"]

    @property
    def location(self) -> str:
        """The URL."""
        return self._storage.url

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
            self._names()
            return True
        return False

    def create(self) -> None:
        """Check that the bucket can be read. Raises PublishError."""
        try:
            self._names()
        except StoreUnreadableError as error:
            raise PublishError(str(error)) from error

    def contents(self) -> dict[str, ModelContents]:
        """As `ModelStore.contents`, from one listing."""
        contents = super().contents()  # of the built-in layer
        for model, numbers in self._published().items():
            contents[model] = ModelContents("published", tuple(sorted(numbers)))
        return dict(sorted(contents.items()))

    def versions(self, model: str) -> list[int]:
        """Version numbers, ascending. Raises ModelNotFoundError or StoreUnreadableError."""
        check_name(model)
        if numbers := self._published().get(model):
            return sorted(numbers)
        return super().versions(model)

    def layer(self, model: str) -> Any:
        """Whether the model was published here or is built in. Raises ModelNotFoundError."""
        check_name(model)
        return "published" if model in self._published() else super().layer(model)

    def aliases(self, model: str) -> Aliases:
        """The aliases of a model. A built-in model has none."""
        return _RemoteAliases(check_name(model), self)

    def open(self, model: str, version: int, *, verify: bool = True) -> Version:
        """As `ModelStore.open`. The version is fetched unless it is in the cache."""
        numbers = self._published().get(check_name(model))
        if numbers is None:
            return super().open(model, version, verify=verify)
        if version not in numbers:
            known = ", ".join(map(str, sorted(numbers)))
            raise VersionNotFoundError(f"{model} has no version {version}; it has {known}")
        for _ in range(OPEN_ATTEMPTS):
            with suppress(VersionNotFoundError):  # another process has just pruned the cache
                directory = self._fetch(model, version, files=True)
                opened = Version(model, version, directory, "published", self._trusted_keys)
                mark_used(directory / MANIFEST_NAME)
                if verify:
                    try:
                        opened.verify()
                    except BaseException:
                        opened.close()
                        raise
                return opened
        raise VersionNotFoundError(f"{model}/{version} was deleted while it was opened")

    def open_manifest(self, model: str, version: int) -> Version:
        """As `ModelStore.open_manifest`; fetches no other file."""
        numbers = self._published().get(check_name(model))
        if numbers is None or version not in numbers:
            return self.open(model, version, verify=False)  # built in, or an error
        directory = self._fetch(model, version, files=False)
        return Version(model, version, directory, "published", self._trusted_keys)

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
                        self._storage.upload(f"{model}/{number}/{name}", path)
                data = (sealed / MANIFEST_NAME).read_bytes()
                self._create(f"{model}/{number}/{MANIFEST_NAME}", data)
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
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        versions = self.versions(model)
        kept = needed_versions(versions, self.aliases(model), keep)
        deleted = [number for number in versions if number not in kept]
        leftovers = self._leftovers(model)
        if not dry_run:
            for number in deleted:
                self._storage.delete(f"{model}/{number}/{MANIFEST_NAME}")  # first: ends the version
            for number in [*deleted, *leftovers]:
                for name in self._storage.names(f"{model}/{number}"):
                    self._storage.delete(name)
            self.forget_listing()
        return PruneReport(tuple(deleted), kept, tuple(map(str, leftovers)))

    def forget_listing(self) -> None:
        """Discard the listing, so that the next call lists the objects again."""
        self._listing = None

    def names_below(self, folder: str) -> list[str]:
        """Names of the objects below a folder, relative to it. Raises StoreUnreadableError."""
        start = f"{folder}/"
        return [name[len(start) :] for name in self._names() if name.startswith(start)]

    def create_object(self, name: str, data: bytes) -> None:
        """Write an object. Raises FileExistsError if it exists, or StoreUnreadableError."""
        self._create(name, data)

    def read_object(self, name: str, max_bytes: int) -> bytes:
        """The bytes of an object. Raises FileNotFoundError or StoreUnreadableError."""
        return self._storage.read(name, max_bytes)

    def _names(self) -> dict[str, datetime]:
        now = time.monotonic()
        listing = self._listing
        if listing is None or now - listing[0] > LISTING_SECONDS:
            try:
                listing = now, self._storage.names()
            except FileNotFoundError as error:
                raise StoreUnreadableError(f"{self.location} does not exist") from error
            self._listing = listing
        return listing[1]

    def _published(self) -> dict[str, set[int]]:
        """Numbers of the versions of each model."""
        found: dict[str, set[int]] = {}
        for name in self._names():
            match name.split("/"):
                case [model, number, last] if last == MANIFEST_NAME:
                    if is_name(model) and is_version_name(number):
                        found.setdefault(model, set()).add(int(number))
        return found

    def _create(self, name: str, data: bytes) -> None:
        self.forget_listing()
        try:
            self._storage.create(name, data)
        except FileExistsError:
            # A request that was repeated after a lost answer finds its own object.
            if self._storage.read(name, len(data)) != data:
                raise

    def _claim(self, model: str) -> int:
        """Reserve the next number, so that no other publisher writes below it."""
        owner = hashlib.sha256(str(time.time_ns()).encode() + str(id(self)).encode()).hexdigest()
        while True:
            self.forget_listing()
            folders = (name.split("/") for name in self.names_below(model))
            taken = [
                int(each)
                for parts in folders
                for each in (parts[1] if parts[0] == CLAIMS else parts[0],)
                if is_version_name(each)
            ]
            number = max(taken, default=0) + 1
            if not is_version_name(str(number)):
                raise PublishError(f"{model} has no version number left after {max(taken)}")
            with suppress(FileExistsError):
                self._create(f"{model}/{CLAIMS}/{number}", owner.encode())
                return number

    def _leftovers(self, model: str) -> list[int]:
        newest: dict[int, datetime] = {}
        complete = set(self._published().get(model, ()))
        for name, written in self._names().items():
            parts = name.split("/")
            if parts[0] == model and len(parts) > 2 and is_version_name(parts[1]):
                number = int(parts[1])
                newest[number] = max(newest.get(number, written), written)
        before = datetime.now(UTC) - ABANDONED_AFTER
        return [number for number, at in newest.items() if number not in complete and at < before]

    def _fetch(self, model: str, number: int, *, files: bool) -> Path:
        """The directory of a version in the cache. Without `files`, it has only the manifest."""
        folder = f"{model}/{number}"
        try:
            manifest = self._storage.read(f"{folder}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES)
            signature = None
            if f"{folder}/{SIGNATURE_NAME}" in self._names():
                signature = self._storage.read(f"{folder}/{SIGNATURE_NAME}", SIGNATURE_BYTES)
            key = hashlib.sha256(manifest + (signature or b"")).hexdigest()
            entry = open_host_cache(self._cache, FOLDER) / (key if files else f"{key}-manifest")
            if entry.is_dir():
                return entry
            with build_entry(entry) as building:
                (building / MANIFEST_NAME).write_bytes(manifest)
                if signature is not None:
                    (building / SIGNATURE_NAME).write_bytes(signature)
                if files:
                    with Version(
                        model, number, building, "published", self._trusted_keys
                    ) as fetched:  # refused before its files are fetched
                        self._download(folder, fetched.manifest, building)
                        fetched.verify()
        except ObjectTooLargeError as error:  # as for a version on disk: no later read succeeds
            raise ManifestError(str(error)) from error
        except FileNotFoundError as error:
            self.forget_listing()
            if f"{folder}/{MANIFEST_NAME}" in self._names():
                raise FileMissingError(f"{folder}: a file of its manifest is missing") from error
            raise VersionNotFoundError(f"{folder} was deleted while it was fetched") from error
        except OSError as error:
            raise StoreUnreadableError(f"{folder} cannot be cached: {error.strerror}") from error
        if files:
            prune_entries(entry.parent, self._cache_max_bytes, keep=entry)
        return entry

    def _download(self, folder: str, manifest: Manifest, directory: Path) -> None:
        for entry in manifest.files:  # the schema allows no path that leaves the directory
            path = directory / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._storage.download(f"{folder}/{entry.path}", path, entry.size)

    def _require_published(self, model: str) -> None:
        if check_name(model) in self._published():
            return
        if model in super().contents():
            raise AliasError(
                f"{model} is built in, so it has no aliases and cannot be pruned; publish a model "
                "of that name first"
            )
        known = ", ".join(self.contents()) or "no models"
        raise ModelNotFoundError(f"there is no model {model!r}; the store has {known}")


class _RemoteAliases(Aliases):
    def __init__(self, model: str, store: RemoteModelStore) -> None:
        super().__init__(model, Path(model))
        self._store = store

    def change_token(self, alias: str) -> object:
        return tuple(self._numbers(alias))

    def abandoned_drafts(self) -> list[Path]:
        return []  # an event is one conditional write

    def _list(self, alias: str = "") -> list[str]:
        folder = f"{self._model}/{DIRECTORY_NAME}" + (f"/{alias}" if alias else "")
        try:
            names = self._store.names_below(folder)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: its aliases cannot be read: {error}") from error
        return sorted({name.split("/")[0] for name in names})

    def _read_event(self, alias: str, name: str) -> bytes:
        path = f"{self._model}/{DIRECTORY_NAME}/{alias}/{name}"
        try:
            return self._store.read_object(path, MAX_EVENT_BYTES)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: its aliases cannot be read: {error}") from error

    def _create_event(self, alias: str, name: str, data: bytes) -> None:
        try:
            self._store.create_object(f"{self._model}/{DIRECTORY_NAME}/{alias}/{name}", data)
        except StoreUnreadableError as error:
            raise AliasError(f"{self._model}: {alias} cannot be moved: {error}") from error
