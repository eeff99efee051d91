"""The versions of one model that this process serves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from model_store.version import StoreLayer
from service.engine.loaded_version import LoadedVersion
from service.versions.desired_versions import DesiredVersions

ModelState = Literal["loading", "ready", "unloading", "unloaded", "error"]


@dataclass(frozen=True)
class ServedModel:
    """The state of one model; immutable."""

    name: str
    state: ModelState = "loading"
    layer: StoreLayer = "published"
    default_version: LoadedVersion | None = None
    """The one of `serving` that answers requests without a version number."""
    serving: Mapping[int, LoadedVersion] = field(default_factory=dict)
    loading: int | None = None
    on_trial: frozenset[int] = frozenset()
    """Versions that are tried in another process. Then they are loaded here."""
    error: str | None = None
    """What is wrong with the model as a whole."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Why versions do not serve, by number."""
    retry_at: Mapping[int, float] = field(default_factory=dict)
    """Versions in `errors` that are tried again by themselves: when (`time.monotonic`)."""
    desired: DesiredVersions | None = None
    """The desired versions of the last reconciliation; None after any other change."""


Models = Mapping[str, ServedModel]


def serves(models: Models, name: str | None) -> bool:
    model = models.get(name or "")
    return model is not None and model.default_version is not None
