"""One model as it serves, and how it follows a wish."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.store import ModelStore
from model_store.version import Layer
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.versions.desired_versions import DesiredVersions

State = Literal["loading", "ready", "unloading", "unloaded", "error"]
VersionStateName = Literal["loading", "ready", "unloading", "error"]
_UNREAD: Final = (StoreUnreadableError, OSError)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """What serves of a model, why other versions do not, and the wish that was followed last.

    `served` is what answers where no version is named, one of `serving`, whatever the state: a model that is gone from the store
    may go on until another takes over.
    """

    name: str
    state: State = "loading"
    layer: Layer = "published"
    served: LoadedVersion | None = None
    serving: Mapping[int, LoadedVersion] = field(default_factory=dict)
    loading: int | None = None
    error: str | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    unread: frozenset[int] = frozenset()
    """Of the versions with an error those that could not be read: no fault of theirs, so they are tried at every look."""
    wish: DesiredVersions | None = None


@dataclass(frozen=True)
class Failure:
    """Why a version can not serve, as a client may read it, and whether it only could not be read."""

    reason: str
    unread: bool


def follow(
    model: ServedModel, wish: DesiredVersions, store: ModelStore, options: EngineOptions
) -> Iterator[ServedModel]:
    """The model step by step on its way to the wish: each step to be shown at once, the last one when the wish was followed.

    Of the candidates the best that can be proven serve, as many as are wished, and what is held loaded beside them. What served
    before goes on until the last step, and longer where nothing of the wish can be proven; it is neither changed nor closed. A
    version that failed under this very wish is not tried again. Raises nothing: what is wrong with a version stands in `errors`.
    """
    kept: dict[int, LoadedVersion] = {}
    errors: dict[int, str] = {}
    unread: set[int] = set()
    places = wish.selection.count
    for number in dict.fromkeys((*wish.candidates, *wish.pinned)):
        if not places and number not in wish.pinned:
            continue
        served = _still_serving(model, number, wish)
        if (
            served is None
            and wish == model.wish
            and number in model.errors
            and number not in model.unread
        ):
            errors[number] = model.errors[number]
        elif served is None:
            yield _between(model, kept, wish, loading=number)
            said = model.errors.get(number) if number in model.unread else None
            loaded = try_version(model.name, number, store, options, said)
            if isinstance(loaded, LoadedVersion):
                served = loaded
            else:
                errors[number] = loaded.reason
                unread |= {number} if loaded.unread else set()
        if served is None:
            continue
        kept[number] = served
        places -= bool(places) and number in wish.candidates
        yield _between(model, kept, wish)
    serving = kept or {
        number: served for number, served in model.serving.items() if number not in wish.unloaded
    }
    answering = serving[wish.choose_answering(serving)] if serving else None
    yield ServedModel(
        model.name,
        state="ready" if serving else "unloaded" if wish.unloaded and not errors else "error",
        layer=answering.version.layer if answering else wish.layer,
        served=answering,
        serving=serving,
        errors=errors,
        unread=frozenset(unread),
        wish=wish,
    )


def try_version(
    name: str, number: int, store: ModelStore, options: EngineOptions, said: str | None = None
) -> LoadedVersion | Failure:
    """The version, verified, proven and warm, or why it is not; the log has the reason, unless it is what was `said` before."""
    began = time.perf_counter()
    try:
        served = LoadedVersion(store.open(name, number), options)
    except Exception as error:  # one damaged version must not keep the other models from serving
        failure = Failure(_describe(error), isinstance(error, _UNREAD))
        if failure.reason != said:
            unexpected = None if isinstance(error, (ModelStoreError, OSError)) else error
            logger.error("%s/%d is not served: %s", name, number, error, exc_info=unexpected)  # noqa: TRY400
        return failure
    taken = (time.perf_counter() - began) * 1e3
    logger.info(
        "%s is ready in %s after %.0f ms", served.version, served.selected_variant.precision, taken
    )
    return served


def _describe(error: Exception) -> str:
    if isinstance(error, _UNREAD):
        return "it can not be read"
    if isinstance(error, ModelStoreError):
        return str(error)
    return f"it can not be loaded: {type(error).__name__}; the server's log has the reason"


def _still_serving(model: ServedModel, number: int, wish: DesiredVersions) -> LoadedVersion | None:
    """The version where it serves already; not one of another layer, nor of a model that was gone and came back."""
    served = model.serving.get(number)
    return (
        served
        if served and model.state != "unloading" and served.version.layer == wish.layer
        else None
    )


def _between(
    model: ServedModel,
    kept: Mapping[int, LoadedVersion],
    wish: DesiredVersions,
    loading: int | None = None,
) -> ServedModel:
    """A step on the way: what is there already serves, and so does still what served before."""
    serving = {**model.serving, **kept}
    if not serving:
        return replace(model, state="loading", loading=loading)
    answering = serving[wish.choose_answering(serving)]
    state = "ready" if kept else model.state
    return replace(
        model,
        state=state,
        layer=answering.version.layer,
        served=answering,
        serving=serving,
        loading=loading,
    )
