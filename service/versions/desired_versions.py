"""What is wished to be served of a model: by its policy, from names and alias events alone, so that it can be asked often."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from model_store.aliases import PRODUCTION, standing
from model_store.store import Contents, ModelStore
from model_store.version import Layer
from service.versions.version_policy import Selection, VersionPolicy, select_versions

Hold = Literal["load", "unload"]
"""What an operator said of one version on this replica: it outlasts every look at the store until it is taken back."""

DEFAULT_POLICY: Final = VersionPolicy()


@dataclass(frozen=True)
class DesiredVersions:
    """One model's wish. Two that are equal ask for nothing new, so what failed under one is not tried again under the other."""

    layer: Layer
    versions: tuple[int, ...]
    moves: int
    """How often the aliases were moved: a version that failed is tried again when it is promoted once more."""
    selection: Selection
    holds: tuple[tuple[int, Hold], ...] = ()

    @property
    def candidates(self) -> tuple[int, ...]:
        """The versions that the policy would have, best first, without those that are held unloaded."""
        return tuple(number for number in self.selection.candidates if number not in self.unloaded)

    @property
    def pinned(self) -> tuple[int, ...]:
        """The versions that are held loaded, whatever the policy says."""
        return tuple(number for number, hold in self.holds if hold == "load")

    @property
    def unloaded(self) -> tuple[int, ...]:
        """The versions that are held unloaded, whatever the policy says."""
        return tuple(number for number, hold in self.holds if hold == "unload")

    def choose_answering(self, serving: Iterable[int]) -> int:
        """Which of the versions that serve, at least one, answers where none is named."""
        numbers = set(serving)
        return next((number for number in self.selection.named if number in numbers), max(numbers))


class DesiredVersionsReader:
    """Reads wishes. An alias's events are opened once, and again only when its directory has changed: they are append-only."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[object, tuple[int, ...], int]] = {}

    def read(
        self, model: str, contents: Contents, policy: VersionPolicy = DEFAULT_POLICY
    ) -> DesiredVersions:
        """The wish of a model of which the store holds this. Raises AliasError."""
        aliases, moves = {}, 0
        if contents.layer == "published":
            for alias in {policy.alias, PRODUCTION}:
                aliases[alias], count = self._read_alias(model, alias)
                moves += count
        return DesiredVersions(
            contents.layer,
            contents.versions,
            moves,
            select_versions(policy, contents.versions, aliases),
        )

    def forget_all_but(self, models: Iterable[str]) -> None:
        """Let go of what was read of models that are gone."""
        kept = set(models)
        self._known = {key: known for key, known in self._known.items() if key[0] in kept}

    def _read_alias(self, model: str, alias: str) -> tuple[tuple[int, ...], int]:
        """The versions that the alias has pointed to and not been rolled back from, newest first, and how often it moved."""
        aliases = self._store.aliases(model)
        stamp = aliases.stamp(alias)
        known = self._known.get((model, alias))
        if known is None or known[0] != stamp:
            history = aliases.history(alias)
            known = stamp, tuple(dict.fromkeys(reversed(standing(history)))), len(history)
            self._known[model, alias] = known
        return known[1], known[2]
