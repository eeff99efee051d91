"""The model store: list models and versions, open, publish, promote and prune them.

::

    <root>/<model>/<version>/manifest.json, model.onnx, …     sealed
    <root>/<model>/aliases/<alias>/00000001.json              append-only
    <root>/<model>/.staging-…/                                a version that is being published

The root may also be the directory of one model or of one version: see `store_layout`.
Below the root is a second, read-only layer with the built-in models of the project. A published
model hides a built-in one of the same name.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_store.aliases import PRODUCTION, Aliases, check_alias_name
from model_store.errors import (
    AliasError,
    ModelNotFoundError,
    PublishError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.names import check_name, is_name, parse_version
from model_store.pruning import PruneReport, prune_versions
from model_store.publishing import publish_version
from model_store.store_layout import (
    SingleModel,
    directories,
    find_single_model,
    version_numbers,
)
from model_store.version import StoreLayer, Version

if TYPE_CHECKING:  # elsewhere imported only when needed, because that takes 30 ms
    from model_store.signature import SigningKey, TrustedKeys

DEFAULT_ROOT = Path("model_store/models")
BUILTIN_ROOT = Path(__file__).parent / "builtin"
BUILTIN_DEFAULT_MODEL = "cifar10"


@dataclass(frozen=True)
class ModelContents:
    """The versions of one model, ascending, or the reason why they cannot be read."""

    layer: StoreLayer
    versions: tuple[int, ...]
    error: str | None = None


@dataclass(frozen=True)
class ModelLocation:
    """Where a model is: its layer, and the directory of each version by number, ascending.

    In an object store, directories are relative to its URL.
    """

    layer: StoreLayer
    versions: Mapping[int, Path]
    single: SingleModel | None = None


class ModelStore:
    """The versions under one root, over the built-in layer. Every call reads the disk.

    A root that does not exist is an error and not an empty store, because a mistyped path must not
    unload every model. Only the default root may be missing.

    Args:
        root: Where models are published.
        builtin_root: The read-only layer, or None for none.
        may_appear: A root that has never existed counts as empty. A service sets it, because its
            volume may be mounted later.
        signing_key: Signs what is published.
        trusted_keys: Only versions that one of them signed are opened, and the built-in ones.
        model_name: The name of the model if the root has only one. Default: as in its manifest.
    """

    def __init__(
        self,
        root: Path = DEFAULT_ROOT,
        builtin_root: Path | None = BUILTIN_ROOT,
        *,
        may_appear: bool = False,
        signing_key: "SigningKey | None" = None,
        trusted_keys: "TrustedKeys | None" = None,
        model_name: str | None = None,
    ) -> None:
        self.root = root
        self._signing_key = signing_key
        self._trusted_keys = trusted_keys
        self._model_name = model_name
        self._has_single_model: bool | None = None  # found by the last `contents`
        self._may_appear = may_appear and root != DEFAULT_ROOT
        self._layers: list[tuple[StoreLayer, Path]] = [("published", root)]
        if builtin_root is not None:
            self._layers.append(("built-in", builtin_root))

    @property
    def location(self) -> str:
        """The location of the store, as it was given."""
        return str(self.root)

    @property
    def absolute_location(self) -> str:
        """The location of the store, independent of the working directory."""
        return str(self.root.resolve())

    def exists(self) -> bool:
        """Whether the root exists."""
        return self.root.exists()

    def create(self) -> None:
        """Create the root if it does not exist. Raises PublishError if it is not writable."""
        root = self.root.resolve()
        nearest = next(path for path in (root, *root.parents) if path.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise PublishError(
                f"cannot write to the store {self.root}: {nearest} is not a writable directory"
            )
        root.mkdir(parents=True, exist_ok=True)

    @property
    def has_not_appeared(self) -> bool:
        """Whether the root may appear later and has never existed."""
        if self._may_appear and os.path.lexists(self.root):
            self._may_appear = False
        return self._may_appear

    def single_model(self) -> str | None:
        """Name of the model if the root has only one, else None. Raises StoreUnreadableError."""
        single = self._single(self._model_directories(self.root))
        return single.name if single else None

    def models(self) -> list[str]:
        """Names of the models that have a version, sorted. Raises StoreUnreadableError."""
        contents = self.contents()
        for model in contents.values():
            if model.error:
                raise StoreUnreadableError(model.error)
        return list(contents)

    def contents(self) -> dict[str, ModelContents]:
        """Every model that has a version, sorted by name.

        Lists each directory once and opens no file. A model whose directory cannot be read has a
        reason instead of versions.

        Raises:
            StoreUnreadableError: A root cannot be listed.
        """
        contents: dict[str, ModelContents] = {}
        for layer, root in self._layers:
            names = self._model_directories(root)
            if root == self.root:
                single = self._single(names)
                self._has_single_model = single is not None
                if single:
                    contents[single.name] = ModelContents(layer, tuple(single.versions))
                    continue
            for name in names:
                if name in contents or not is_name(name):
                    continue
                try:
                    if versions := version_numbers(root / name):
                        contents[name] = ModelContents(layer, tuple(versions))
                except StoreUnreadableError as error:
                    contents[name] = ModelContents(layer, (), str(error))
        return dict(sorted(contents.items()))

    def versions(self, model: str) -> list[int]:
        """Version numbers, ascending. Raises ModelNotFoundError or StoreUnreadableError."""
        return list(self._locate(model).versions)

    def layer(self, model: str) -> StoreLayer:
        """Whether the model was published here or is built in. Raises ModelNotFoundError."""
        return self._locate(model).layer

    def aliases(self, model: str) -> Aliases:
        """The aliases of a model. A built-in model has none."""
        check_name(model)
        if self._has_single_model is None:
            self._has_single_model = self.single_model() is not None
        return Aliases(model, self.root if self._has_single_model else self.root / model)

    def resolve(self, model: str, wanted: str | None = None) -> int:
        """Return the number of the version that `wanted` names. `open` checks that it exists.

        Args:
            model: Name of the model.
            wanted: A version number, an alias, or None for `production` or else the latest version.

        Raises:
            AliasError: The alias does not exist or is damaged.
            InvalidNameError: `wanted` is neither a version number nor an alias.
            ModelNotFoundError: The model has no version.
        """
        versions = self.versions(model)
        if wanted is None:
            aliased = self.aliases(model).version(PRODUCTION)
            return versions[-1] if aliased is None else aliased
        if wanted[:1].isdecimal() or wanted[:1] in "+-":
            return parse_version(wanted)
        aliased = self.aliases(model).version(wanted)
        if aliased is None:
            known = ", ".join(self.aliases(model).names()) or "none"
            raise AliasError(f"{model} has no alias {wanted!r}; it has {known}")
        return aliased

    def open(self, model: str, version: int, *, verify: bool = True) -> Version:
        """Open a version, and by default compare every file with its sealed sha256.

        Raises:
            ModelNotFoundError: The model has no version.
            VersionNotFoundError: The model does not have this version.
            ManifestError: The manifest is not valid.
            SignatureError: The store has trusted keys, and none of them signed the version.
            VersionCorruptError: A file is not as it was sealed.
            StoreUnreadableError: A file or directory cannot be read.
        """
        location = self._locate(model)
        directory = location.versions.get(version)
        if directory is None:
            numbers = ", ".join(map(str, location.versions))
            raise VersionNotFoundError(f"{model} has no version {version}; it has {numbers}")
        trusted_keys = self._trusted_keys if location.layer == "published" else None
        renamed = location.single is not None and self._model_name is not None
        opened = Version(model, version, directory, location.layer, trusted_keys, renamed=renamed)
        if verify:
            try:
                opened.verify()
            except BaseException:
                opened.close()
                raise
        return opened

    def open_manifest(self, model: str, version: int) -> Version:
        """Open a version only for its manifest: its files are not verified, and may be missing.

        Raises:
            ModelStoreError: As `open`.
        """
        return self.open(model, version, verify=False)

    def publish(
        self, model: str, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
    ) -> int:
        """Seal `files` as the next version of a model and return its number. No alias moves.

        Args:
            model: Name of the model, which need not exist.
            manifest: Fields of the `Manifest`, without `files` and `model`.
            files: Contents, or the file to copy, by path relative to the version's directory.

        Raises:
            PublishError: A file cannot be written. The store is unchanged.
            ManifestError: The manifest is not valid.
            InvalidNameError: `model` is not a valid name.
        """
        with suppress(StoreUnreadableError):  # publishing says what is wrong with the root
            if self.single_model():
                raise PublishError(
                    f"{self.root} is the directory of one model, not a model store: choose the "
                    "directory above it, or another one"
                )
        directory = self.root / check_name(model)
        return publish_version(directory, model, manifest, files, self._signing_key)

    def check_movable(self, model: str, alias: str = PRODUCTION) -> None:
        """Check that an alias of this model can be moved to any version.

        Raises:
            AliasError: The model is built in.
            InvalidNameError: `alias` is not a valid name.
            ModelNotFoundError: The model has no version.
        """
        self._require_published(model)
        check_alias_name(alias)

    def promote(
        self,
        model: str,
        version: int,
        alias: str = PRODUCTION,
        why: str = "",
        by: str | None = None,
    ) -> None:
        """Point an alias to a published version.

        Args:
            model: Name of the model.
            version: Version number, which must exist.
            alias: Name of the alias, which is created if it does not exist.
            why: Reason, kept in the alias's history.
            by: Who moves it; the operating system's user by default.

        Raises:
            VersionNotFoundError: The version does not exist.
            AliasError: The model is built in, or the event cannot be written.
        """
        self._require_published(model)
        if version not in self.versions(model):
            raise VersionNotFoundError(
                f"{model} has no version {version}, so {alias} cannot point to it"
            )
        self.aliases(model).promote(alias, version, why, by)

    def rollback(
        self,
        model: str,
        alias: str = PRODUCTION,
        why: str = "",
        by: str | None = None,
        to: int | None = None,
    ) -> int:
        """Point an alias back to the version before its newest promotion, and return that version.

        Args:
            model: Name of the model.
            alias: Name of the alias.
            why: Reason, kept in the alias's history.
            by: Who moves it; the operating system's user by default.
            to: The version that the caller expects.

        Raises:
            AliasError: There is no earlier version, it is not `to`, or the alias cannot be moved.
        """
        self._require_published(model)
        return (
            self.aliases(model).rollback(alias, why, by, among=self.versions(model), to=to).version
        )

    def prune(self, model: str, keep: int = 3, *, dry_run: bool = False) -> PruneReport:
        """Delete versions that nothing needs, and leftovers of killed publishers.

        Kept are the latest `keep` versions, those to which an alias points or can be rolled back
        (at most `keep` per alias), and those that a process has open.

        Args:
            model: Name of the model.
            keep: At least 1.
            dry_run: Report what would be deleted, and delete nothing.

        Raises:
            AliasError: The model is built in, or an alias is damaged.
        """
        self._require_published(model)
        directory = self.root if self.single_model() else self.root / model
        return prune_versions(
            directory, self.versions(model), self.aliases(model), keep, dry_run=dry_run
        )

    def _locate(self, model: str) -> ModelLocation:
        check_name(model)
        for layer, root in self._layers:
            names = self._model_directories(root)
            single = self._single(names) if root == self.root else None
            if single:
                if model == single.name:
                    return ModelLocation(layer, single.versions, single)
            elif model in names and (numbers := version_numbers(root / model)):
                return ModelLocation(layer, {each: root / model / str(each) for each in numbers})
        raise ModelNotFoundError(
            f"there is no model {model!r}; the store has {', '.join(self.models()) or 'no models'}"
        )

    def _model_directories(self, root: Path) -> list[str]:
        if root == self.root and self.has_not_appeared:
            return []
        return [] if root == DEFAULT_ROOT and not os.path.lexists(root) else directories(root)

    def _single(self, names: Sequence[str]) -> SingleModel | None:
        return find_single_model(self.root, names, self._model_name)

    def _require_published(self, model: str) -> None:
        location = self._locate(model)
        if location.single and location.single.is_version:
            raise AliasError(
                f"{self.root} is one version, so it has no aliases and cannot be pruned; use a "
                "model store"
            )
        if location.layer != "published":
            raise AliasError(
                f"{model} is built in, so it has no aliases and cannot be pruned; publish a model "
                "of that name first"
            )
