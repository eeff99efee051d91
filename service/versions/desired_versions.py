"""Which versions of a model should serve, computed from version numbers and alias events."""

import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from model_store.aliases import PRODUCTION, rollback_history
from model_store.errors import AliasError
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
    promotions: tuple[tuple[int, int], ...]
    """How often an alias was moved to each version. Moving it again means to try it again."""
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
    """Reads desired versions. An alias is read again only after its directory has changed.

    Thread-safe: operations count promotions while the registry is reconciled.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._cache: dict[tuple[str, str], tuple[object, tuple[int, ...], Counter[int]]] = {}
        self._lock = threading.Lock()

    def read(
        self, model: str, contents: ModelContents, policy: VersionPolicy = DEFAULT_POLICY
    ) -> DesiredVersions:
        """Compute the desired versions of a model. Raises AliasError."""
        aliases: dict[str, tuple[int, ...]] = {}
        promotions = Counter[int]()
        if contents.layer == "published":
            for alias in {policy.alias, PRODUCTION}:
                aliases[alias], moves = self._read_alias(model, alias)
                promotions += moves
        selection = select_versions(policy, contents.versions, aliases)
        return DesiredVersions(
            contents.layer, contents.versions, tuple(sorted(promotions.items())), selection
        )

    def promotions(self, model: str, version: int, policy: VersionPolicy) -> int:
        """How often the aliases that matter were moved to a version; 0 if they are damaged."""
        with suppress(AliasError):
            return sum(
                self._read_alias(model, alias)[1][version] for alias in {policy.alias, PRODUCTION}
            )
        return 0

    def keep_only(self, models: Iterable[str]) -> None:
        """Drop the cache entries of all other models."""
        kept = set(models)
        with self._lock:
            self._cache = {key: entry for key, entry in self._cache.items() if key[0] in kept}

    def _read_alias(self, model: str, alias: str) -> tuple[tuple[int, ...], Counter[int]]:
        """The versions that rollbacks would restore, newest first, and the moves to each."""
        aliases = self._store.aliases(model)
        token = aliases.change_token(alias)
        with self._lock:
            cached = self._cache.get((model, alias))
        if cached is None or cached[0] != token:
            history = aliases.history(alias)
            moves = Counter(event.version for event in history)
            cached = token, tuple(dict.fromkeys(reversed(rollback_history(history)))), moves
            with self._lock:
                self._cache[model, alias] = cached
        return cached[1], cached[2]
