"""Helpers for tests of the registry."""

from colour_model import MODEL
from server_process import PATIENCE_SECONDS

from model_store.session import SessionOptions
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.versions.registry import Registry


def options(_: str) -> EngineOptions:
    return EngineOptions(SessionOptions(), max_batch_size=8)


def serving(registry: Registry, model: str = MODEL) -> int | None:
    served = registry.models[model].default_version
    return served.version.number if served else None


def wait_until_closed(registry: Registry) -> None:
    for *_, thread in registry._state.draining._draining:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def is_closed(served: LoadedVersion) -> bool:
    return not served.take_lease() and served.version._lock._descriptor < 0
