"""One model as it serves, and how it follows a wish."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.store import ModelStore
from model_store.version import Layer
from service.served_version import EngineOptions, ServedVersion
from service.wish import Wish

State = Literal["loading", "ready", "unloading", "error"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """What serves of a model, why other versions do not, and the wish that was followed last.

    `served` is what answers, whatever the state: a model that is gone from the store may go on until another takes over.
    """

    name: str
    state: State = "loading"
    layer: Layer = "published"
    served: ServedVersion | None = None
    error: str | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    unread: frozenset[int] = frozenset()
    """Of the versions with an error those that could not be read: no fault of theirs, so they are tried at every look."""
    wish: Wish | None = None


Models = Mapping[str, ServedModel]


def serves(models: Models, name: str | None) -> bool:
    """Whether a version of this model answers."""
    model = models.get(name or "")
    return model is not None and model.served is not None


def load_model(model: ServedModel, wish: Wish, store: ModelStore, options: EngineOptions) -> ServedModel:
    """The model once the wish was followed: its best candidate that can be proven serves, else what served before.

    What served before is neither changed nor closed. A version that failed under this very wish is not tried again. Raises
    nothing: what is wrong with a version stands in `errors`.
    """
    served = model.served
    errors: dict[int, str] = {}
    unread = set()
    for number in wish.candidates:
        if served and model.state == "ready" and (number, wish.layer) == (served.version.number, served.version.layer):
            break
        if wish == model.wish and number in model.errors and number not in model.unread:
            errors[number] = model.errors[number]
            continue
        began = time.perf_counter()
        try:
            served = ServedVersion(store.open(model.name, number), options)
        except Exception as error:  # one damaged version must not keep the other models from serving
            errors[number] = _describe(error)
            if isinstance(error, StoreUnreadableError):
                unread.add(number)
            if number not in model.unread or errors[number] != model.errors.get(number):  # said once, not at every look
                unexpected = None if isinstance(error, ModelStoreError) else error
                logger.error("%s/%d is not served: %s", model.name, number, error, exc_info=unexpected)  # noqa: TRY400
            continue
        taken = (time.perf_counter() - began) * 1e3
        logger.info("%s is ready in %s after %.0f ms", served.version, served.choice.precision, taken)
        break
    return ServedModel(
        model.name,
        state="ready" if served else "error",
        layer=served.version.layer if served else wish.layer,
        served=served,
        errors=errors,
        unread=frozenset(unread),
        wish=wish,
    )


def _describe(error: Exception) -> str:
    """The reason as a client may read it."""
    if isinstance(error, StoreUnreadableError):
        return "it can not be read"
    if isinstance(error, ModelStoreError):
        return str(error)
    return f"it can not be loaded: {type(error).__name__}; the server's log has the reason"
