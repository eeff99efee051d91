"""The version that an alias points to, for requests that name the alias."""

from model_store.errors import ModelStoreError
from service.errors import NotFoundError, NotReadyError
from service.versions.registry import Registry


def find_alias_version(registry: Registry, model: str, alias: str) -> int:
    """The number of the version. Reads the store, so call it in a thread.

    Raises:
        NotFoundError: The model has no such alias.
        NotReadyError: The alias cannot be read.
    """
    try:
        version = registry.store.aliases(model).version(alias)
    except ModelStoreError:
        raise NotReadyError(f"the aliases of model {model} cannot be read") from None
    if version is None:
        raise NotFoundError(
            f"model {model} has no alias {alias!r}; GET /v1/models/{model} lists its aliases",
            code="alias_not_found",
        )
    return version
