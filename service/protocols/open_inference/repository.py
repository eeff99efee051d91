"""The model repository extension: which models there are, and loading and unloading them."""

from typing import Final

from service.errors import BadRequestError, shorten
from service.protocols.open_inference.parameters import read_flag
from service.protocols.open_inference.schemas import RepositoryChange, RepositoryModel
from service.versions.registry import Registry
from service.versions.views import describe_model

_STATES: Final = {
    "ready": "READY",
    "loading": "LOADING",
    "unloading": "UNLOADING",
    "error": "UNAVAILABLE",
    "available": "UNAVAILABLE",
}
_IGNORED_PARAMETERS: Final = frozenset({"unload_dependents"})  # no model depends on another


def list_repository(registry: Registry, *, only_ready: bool) -> list[RepositoryModel]:
    """Every version in the store and in this process. Reads the store."""
    return [
        RepositoryModel(
            name=name,
            version=str(version.version),
            state=_STATES[version.state],
            reason=version.reason or ("unloaded" if version.state == "available" else ""),
        )
        for name, model in sorted(registry.models.items())
        for version in describe_model(registry, model).versions
        if version.state == "ready" or not only_ready
    ]


def check_change(change: RepositoryChange) -> None:
    """Raise BadRequestError if a request has parameters that would change a version."""
    for name in _IGNORED_PARAMETERS:
        read_flag(change.parameters, name, default=False)
    for name in change.parameters.keys() - _IGNORED_PARAMETERS:
        raise BadRequestError(
            f"the parameter {shorten(name, 40)!r} is not supported: versions in the store are "
            "sealed; publish a new version instead",
            code="invalid_parameter",
        )
