"""What can be asked of the models as they serve at one moment."""

from collections.abc import Mapping
from typing import Final

from model_store.store import BUILTIN_DEFAULT_MODEL
from service.engine.loaded_version import LoadedVersion
from service.errors import NotFoundError, NotReadyError
from service.versions.reconciler import ServedModel, State

Models = Mapping[str, ServedModel]

_WHY_NOT: Final[Mapping[State, str]] = {
    "loading": "is being loaded",
    "unloaded": "has no version loaded, since an operator unloaded it",
}


def serves(models: Models, name: str | None) -> bool:
    """Whether a version of this model answers."""
    model = models.get(name or "")
    return model is not None and model.served is not None


def choose_default(models: Models, wanted: str | None, standing: str | None) -> str | None:
    """The model that answers where none is named: as wanted, else the only published one, else the built-in one.

    The standing one keeps the place where it serves and the choice would not.
    """
    if wanted:
        return wanted
    published = [model.name for model in models.values() if model.layer == "published"]
    if published:
        choice = published[0] if len(published) == 1 else None
    else:
        choice = BUILTIN_DEFAULT_MODEL if BUILTIN_DEFAULT_MODEL in models else None
    return standing if serves(models, standing) and not serves(models, choice) else choice


def find_version(models: Models, name: str | None, number: int | None) -> LoadedVersion:
    """What serves of this model, by number or what answers without. Raises NotFoundError, NotReadyError."""
    if name is None and models:
        raise NotFoundError(
            f"there is no default model: set SERVICE_DEFAULT_MODEL, or name one of {_names(models)} in the path",
            code="no_default_model",
        )
    if name is None:
        raise NotReadyError("the store holds no model")
    model = models.get(name)
    if model is None:
        raise NotFoundError(f"there is no model {name!r}; there are {_names(models)}")
    if model.served is None:
        reason = _WHY_NOT.get(model.state, "has no version that could be proven")
        raise NotReadyError(f"{name} {reason}; GET /v1/models/{name} says more")
    if number is None:
        return model.served
    if number not in model.serving:
        there_are = ", ".join(map(str, sorted(model.serving)))
        raise NotFoundError(
            f"version {number} of {name} is not served; of its versions {there_are} serve",
            "version_not_found",
        )
    return model.serving[number]


def _names(models: Models) -> str:
    return ", ".join(sorted(models)) or "none"
