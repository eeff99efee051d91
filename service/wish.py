"""What the store wishes to be served of a model: read from names and alias events alone, so that it can be asked often."""

from dataclasses import dataclass

from model_store.aliases import PRODUCTION, standing
from model_store.store import ModelStore
from model_store.version import Layer


@dataclass(frozen=True)
class Wish:
    """One model's wish. Two that are equal ask for nothing new, so what failed under one is not tried again under the other."""

    layer: Layer
    versions: tuple[int, ...]
    moves: int
    """How often `production` was moved: a version that failed is tried again when it is promoted once more."""
    candidates: tuple[int, ...]
    """The versions to try, best first."""


def read_wish(store: ModelStore, model: str) -> Wish:
    """The versions that `production` has pointed to and not been rolled back from, newest first; without the alias all versions.

    The one it points to is among them also where it is gone: its error is shown. Raises ModelNotFoundError,
    StoreUnreadableError, AliasError.
    """
    layer = store.layer(model)
    versions = tuple(store.versions(model))
    history = store.aliases(model).history(PRODUCTION) if layer == "published" else []
    if not history:
        return Wish(layer, versions, 0, versions[::-1])
    latest, *earlier = dict.fromkeys(reversed(standing(history)))
    return Wish(layer, versions, len(history), (latest, *(number for number in earlier if number in versions)))
