"""The model store: which models and versions there are, opening one verified, publishing one by a single rename.

::

    <root>/<model>/<version>/manifest.json, model.onnx, …     sealed
    <root>/<model>/aliases/<alias>/00000001.json              append-only
    <root>/<model>/.staging-…/                                a publish under way, or the rest of one that was killed

Under the root lies a read-only layer of the versions that ship with the project; a published model of the same name hides
the built-in one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.aliases import PRODUCTION, Aliases, check_alias_name, standing
from model_store.errors import (
    AliasError,
    ModelNotFoundError,
    StoreUnreadableError,
    VersionNotFoundError,
)
from model_store.files import DOOMED_PREFIX, remove_tree_if_unused
from model_store.manifest import MANIFEST_NAME
from model_store.names import check_name, is_name, is_version_name, parse_version
from model_store.publishing import STAGING_PREFIX, publish_version
from model_store.version import Layer, Version

DEFAULT_ROOT = Path("model_store/models")
BUILTIN_ROOT = Path(__file__).parent / "builtin"
BUILTIN_DEFAULT_MODEL = "cifar10"


@dataclass(frozen=True)
class Contents:
    """What the store holds of one model: the layer that it comes from, and its versions, ascending; or why they can not be read."""

    layer: Layer
    versions: tuple[int, ...]
    trouble: str | None = None


@dataclass(frozen=True)
class PruneReport:
    """What `prune` deleted (or would), and why it kept the rest."""

    deleted: tuple[int, ...]
    kept: Mapping[int, str]
    leftovers: tuple[str, ...]


class ModelStore:
    """The versions under one root over the built-in layer. It holds no state: every call looks at the disk.

    A root that is not there is unreadable, not empty: a slip in a path must not look like a store without models. Only the
    default root may be missing, because nothing has been published yet.
    """

    def __init__(self, root: Path = DEFAULT_ROOT, builtin_root: Path | None = BUILTIN_ROOT) -> None:
        self.root = root
        self._layers: list[tuple[Layer, Path]] = [("published", root)]
        if builtin_root is not None:
            self._layers.append(("built-in", builtin_root))

    def models(self) -> list[str]:
        """The models that have a version, sorted. Raises StoreUnreadableError."""
        contents = self.contents()
        if trouble := next((found.trouble for found in contents.values() if found.trouble), None):
            raise StoreUnreadableError(trouble)
        return list(contents)

    def contents(self) -> dict[str, Contents]:
        """Every model that has a version, sorted by name: each directory is listed once, and no file is opened.

        One whose directory can not be read is among them: it takes no other with it. Raises StoreUnreadableError.
        """
        found: dict[str, Contents] = {}
        for layer, root in self._layers:
            for name in self._model_directories(root):
                if name in found or not is_name(name):
                    continue
                try:
                    if versions := _version_numbers(root / name):
                        found[name] = Contents(layer, tuple(versions))
                except StoreUnreadableError as error:
                    found[name] = Contents(layer, (), str(error))
        return dict(sorted(found.items()))

    def versions(self, model: str) -> list[int]:
        """The model's versions, ascending. Raises ModelNotFoundError, StoreUnreadableError."""
        return self._locate(model)[2]

    def layer(self, model: str) -> Layer:
        """Whether the model was published here or came with the project."""
        return self._locate(model)[0]

    def aliases(self, model: str) -> Aliases:
        """The model's aliases. A built-in model has none until it is published."""
        return Aliases(model, self.root / check_name(model))

    def resolve(self, model: str, wanted: str | None = None) -> int:
        """The version that `wanted` names: an integer, an alias, or None for `production` and without that the latest.

        Whether that version exists, `open` finds out. Raises AliasError, InvalidNameError, ModelNotFoundError.
        """
        versions = self.versions(model)
        if wanted is None:
            aliased = self.aliases(model).version(PRODUCTION)
            return versions[-1] if aliased is None else aliased
        if wanted[:1].isdecimal() or wanted[:1] in "+-":
            return parse_version(wanted)
        aliased = self.aliases(model).version(wanted)
        if aliased is None:
            raise AliasError(
                f"{model} has no alias {wanted!r}; it has {', '.join(self.aliases(model).names()) or 'none'}"
            )
        return aliased

    def open(self, model: str, version: int, *, verify: bool = True) -> Version:
        """Open one version, by default with every file held against its sealed sha256.

        Raises ModelNotFoundError, VersionNotFoundError, ManifestError, VersionCorruptError, StoreUnreadableError.
        """
        layer, root, versions = self._locate(model)
        if version not in versions:
            raise VersionNotFoundError(
                f"{model} has no version {version}; it has {', '.join(map(str, versions))}"
            )
        opened = Version(model, version, root / model / str(version), layer)
        if verify:
            try:
                opened.verify()
            except BaseException:
                opened.close()
                raise
        return opened

    def publish(
        self, model: str, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path]
    ) -> int:
        """Seal `files` under the next free version number and return it; `production` is not moved.

        `manifest` holds every block but `files` and `model`, which are filled in here. Everything is staged in a hidden
        sibling directory, synced, and appears by one rename: N publishers racing get N versions, and a crash at any step
        leaves the store as it was. Raises PublishError, ManifestError, InvalidNameError.
        """
        return publish_version(self.root / check_name(model), model, manifest, files)

    def check_movable(self, model: str, alias: str = PRODUCTION) -> None:
        """Raise what moving this alias would raise, whatever the version: AliasError, InvalidNameError, ModelNotFoundError."""
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
        """Move an alias to a published version that exists. Raises VersionNotFoundError, AliasError."""
        self._require_published(model)
        if version not in self.versions(model):
            raise VersionNotFoundError(
                f"{model} has no version {version}, so {alias} can not point to it"
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
        """Move an alias back to the version before its newest promotion, and return that version.

        Raises AliasError, also where that is another than `to`: someone else has moved it meanwhile.
        """
        self._require_published(model)
        return (
            self.aliases(model).rollback(alias, why, by, among=self.versions(model), to=to).version
        )

    def prune(self, model: str, keep: int = 3, *, dry_run: bool = False) -> PruneReport:
        """Delete the versions that no alias names or could roll back to, no reader has open, and are not among the newest `keep`.

        Also removes what killed publishers left behind. Raises AliasError for a built-in model.
        """
        self._require_published(model)
        if keep < 1:
            raise ValueError(
                f"keep must be at least 1, so that the newest version stays; got {keep}"
            )
        directory = self.root / model
        versions = self.versions(model)
        kept = dict.fromkeys(versions[-keep:], f"among the newest {keep}")
        for alias in self.aliases(model).names():
            stack = standing(self.aliases(model).history(alias))
            kept |= dict.fromkeys(stack[-max(keep, 2) : -1], f"{alias} could be rolled back to it")
            kept |= dict.fromkeys(stack[-1:], f"{alias} points to it")
        deleted = []
        for version in sorted(set(versions) - set(kept)):
            if dry_run or remove_tree_if_unused(directory / str(version)):
                deleted.append(version)
            else:
                kept[version] = "a process has it open"
        leftovers = [
            name
            for name in _directories(directory)
            if name.startswith((STAGING_PREFIX, DOOMED_PREFIX))
        ]
        if not dry_run:
            leftovers = [name for name in leftovers if remove_tree_if_unused(directory / name)]
        return PruneReport(
            tuple(deleted),
            {version: kept[version] for version in versions if version in kept},
            tuple(leftovers),
        )

    def _locate(self, model: str) -> tuple[Layer, Path, list[int]]:
        check_name(model)
        for layer, root in self._layers:
            if model in self._model_directories(root) and (
                versions := _version_numbers(root / model)
            ):
                return layer, root, versions
        raise ModelNotFoundError(
            f"there is no model {model!r}; there are {', '.join(self.models()) or 'none'}"
        )

    def _model_directories(self, root: Path) -> list[str]:
        return [] if root == DEFAULT_ROOT and not os.path.lexists(root) else _directories(root)

    def _require_published(self, model: str) -> None:
        if self.layer(model) != "published":
            raise AliasError(
                f"{model} is built in: it has one version and no aliases until you publish a model of that name"
            )


def _directories(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise StoreUnreadableError(
            f"the model store {root} can not be read: {error.strerror}"
        ) from error


def _version_numbers(model_directory: Path) -> list[int]:
    try:
        names = _directories(model_directory)
    except StoreUnreadableError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # it was deleted since it was listed
            return []
        raise
    return sorted(
        parse_version(name)
        for name in names
        if is_version_name(name) and _has_manifest(model_directory / name)
    )


def _has_manifest(directory: Path) -> bool:
    try:
        (directory / MANIFEST_NAME).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StoreUnreadableError(f"{directory} can not be read: {error.strerror}") from error
    return True
