"""Which versions of a model should serve, computed from version numbers and alias events."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from model_store.aliases import PRODUCTION, rollback_history
from model_store.store import ModelContents, ModelStore
from model_store.version import StoreLayer
from service.versions.version_policy import Selection, VersionPolicy, select_versions

Override = Literal["load", "unload"]
"""An operator's decision about a version on this replica. It is kept until it is released."""

DEFAULT_POLICY: Final = VersionPolicy()


@dataclass(frozen=True)
class DesiredVersions:
    """The desired versions of one model. While they stay equal, a failed version is not retried."""

    layer: StoreLayer
    versions: tuple[int, ...]
    alias_moves: int
    """Number of alias events. It changes when a failed version is promoted again, as a retry."""
    selection: Selection
    overrides: tuple[tuple[int, Override], ...] = ()

    @property
    def candidates(self) -> tuple[int, ...]:
        """The versions that the policy selects, best first, except those an operator unloaded."""
        unloaded = self.overridden("unload")
        return tuple(number for number in self.selection.candidates if number not in unloaded)

    def overridden(self, override: Override) -> tuple[int, ...]:
        return tuple(number for number, what in self.overrides if what == override)

    def choose_default(self, serving: Iterable[int]) -> int:
        """The version that answers requests without a version number; `serving` is not empty."""
        numbers = set(serving)
        return next((number for number in self.selection.named if number in numbers), max(numbers))


class DesiredVersionsReader:
    """Reads desired versions. An alias is read again only after its directory has changed."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._cache: dict[tuple[str, str], tuple[object, tuple[int, ...], int]] = {}

    def read(
        self, model: str, contents: ModelContents, policy: VersionPolicy = DEFAULT_POLICY
    ) -> DesiredVersions:
        """Compute the desired versions of a model. Raises AliasError."""
        aliases, moves = {}, 0
        if contents.layer == "published":
            for alias in {policy.alias, PRODUCTION}:
                aliases[alias], count = self._read_alias(model, alias)
                moves += count
        selection = select_versions(policy, contents.versions, aliases)
        return DesiredVersions(contents.layer, contents.versions, moves, selection)

    def keep_only(self, models: Iterable[str]) -> None:
        """Drop the cache entries of all other models."""
        kept = set(models)
        self._cache = {key: entry for key, entry in self._cache.items() if key[0] in kept}

    def _read_alias(self, model: str, alias: str) -> tuple[tuple[int, ...], int]:
        """The versions that rollbacks would restore, newest first, and the number of moves."""
        aliases = self._store.aliases(model)
        token = aliases.change_token(alias)
        cached = self._cache.get((model, alias))
        if cached is None or cached[0] != token:
            history = aliases.history(alias)
            cached = token, tuple(dict.fromkeys(reversed(rollback_history(history)))), len(history)
            self._cache[model, alias] = cached
        return cached[1], cached[2]
