"""Which versions serve: brought in line with the store's wishes while requests lease what serves.

A request leases one version and keeps it to its end, so it never changes version half-way and never meets a closed batcher.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from model_store.errors import AliasError, ModelNotFoundError, ModelStoreError
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from service.errors import NotFoundError, NotReadyError
from service.served_model import Models, ServedModel, load_model, serves
from service.served_version import EngineOptions, ServedVersion
from service.wish import Wish, read_wish

logger = logging.getLogger(__name__)


class Registry:
    """The models of a store as this process serves them.

    `models` is a snapshot: it is never changed, only replaced by one assignment, and only by the one thread that runs `load` or
    `close`. Everyone else reads it once and works on what was found. A version is closed only after it has left the snapshot,
    and gives no lease from then on, so who finds it too late looks again and finds its successor.
    """

    def __init__(self, store: ModelStore, options: Callable[[str], EngineOptions], default_model: str | None = None) -> None:
        self.store = store
        self._options = options
        self._default_model = default_model
        self._standing_default: str | None = None
        self._unloading: list[threading.Thread] = []
        self.models: Models = {}
        self.loaded = False
        self.error: str | None = None

    def load(self) -> None:
        """Bring what serves in line with the store: everything at the start, and what has changed since when called again.

        Each model at the version that `production` names, else the latest; the one that served meanwhile serves until then.
        A version that can not be proven is recorded with its reason, and the one before it is tried, or stays. An unreadable
        store is recorded too and changes nothing else. One call at a time; blocks.
        """
        reported = self.error
        try:
            names = self.store.models()
            self.error = None
            self._follow(names)
        except Exception as error:
            known = isinstance(error, ModelStoreError)  # its message is written for a person; a traceback adds nothing
            self.error = str(error) if known else "loading the models failed"
            if self.error != reported:  # once, not at every look
                logger.error("%s", self.error, exc_info=not known)  # noqa: TRY400  as above
            return
        if reported:
            logger.info("the model store can be read again")

    def close(self) -> None:
        """Unload everything; blocks until requests have ended."""
        serving = [model.served for model in self.models.values() if model.served]
        self.models = {name: replace(model, state="unloading", served=None) for name, model in self.models.items()}
        for served in serving:
            served.close()
        for thread in self._unloading:
            thread.join()

    @property
    def ready(self) -> bool:
        """True when every model that can be proven serves: at least one, and the default model where one was set."""
        return self.loaded and self._can_be_ready(self.models)

    @property
    def default_model(self) -> str | None:
        """The model of /v1/predict: as set, else the only published one, else the built-in one where none is published.

        One that serves already keeps the place from a change of the store that would leave it to none, or to one that fails.
        """
        return self._choose_default(self.models)

    def find(self, name: str | None, version: int | None = None) -> ServedVersion:
        """What serves this model, or the default one. Raises NotFoundError, NotReadyError."""
        models = self.models
        if name is None:
            name = self._choose_default(models)
            if name is None and models:
                raise NotFoundError(
                    f"there is no default model: set SERVICE_DEFAULT_MODEL, or name one of {_names(models)} in the path",
                    code="no_default_model",
                )
        if not self.loaded and not models:
            raise NotReadyError("the models are being loaded" if self.error is None else "the model store can not be read")
        model = models.get(name or "")
        if model is None:
            if name is None:
                raise NotReadyError("the store holds no model")
            raise NotFoundError(f"there is no model {name!r}; there are {_names(models)}")
        if model.served is None:
            reason = "is being loaded" if model.state == "loading" else "has no version that could be proven"
            raise NotReadyError(f"{name} {reason}; GET /v1/models/{name} says more")
        if version is not None and version != model.served.version.number:
            raise NotFoundError(
                f"version {version} of {name} is not served; version {model.served.version.number} is", code="version_not_found"
            )
        return model.served

    @contextmanager
    def lease(self, name: str | None, version: int | None = None) -> Iterator[ServedVersion]:
        """Hold what `find` finds until the end of one request. Raises NotFoundError, NotReadyError."""
        while not (served := self.find(name, version)).take_lease():
            pass  # another took its place since it was found
        try:
            yield served
        finally:
            served.return_lease()

    def _follow(self, names: Sequence[str]) -> None:
        wishes = self._read_wishes(names)
        if not self.loaded:
            self.models = {name: ServedModel(name, layer=wish.layer) for name, wish in wishes.items()} | dict(self.models)
        for name, wish in wishes.items():
            self._follow_wish(name, wish)
        for name in sorted(self.models.keys() - set(names)):  # last, so that what has come can take over from what is gone
            self._unload(name)
        self.loaded = True
        if (default := self.default_model) != self._standing_default:
            logger.info("/v1/predict asks %s", default or "for a model's name: there is no default model")
            self._standing_default = default

    def _read_wishes(self, names: Sequence[str]) -> dict[str, Wish]:
        wishes = {}
        for name in names:
            try:
                wishes[name] = read_wish(self.store, name)
            except ModelNotFoundError:
                continue  # it went after the listing: the next look sees that
            except (ModelStoreError, OSError) as error:
                model = self.models.get(name) or ServedModel(name)
                reason = str(error) if isinstance(error, AliasError) else "its directory can not be read"
                if reason != model.error:
                    logger.error("%s: %s", name, error)  # noqa: TRY400  as above
                self._put(replace(model, state=model.state if model.served else "error", error=reason))
        return wishes

    def _follow_wish(self, name: str, wish: Wish) -> None:
        model = self.models.get(name) or ServedModel(name)
        if wish != model.wish or model.unread:
            self._put(load_model(model, wish, self.store, self._options(name)))
        elif model.error:
            self._put(replace(model, error=None))

    def _unload(self, name: str) -> None:
        """Let go of a model that is gone from the store; but what this replica is ready by serves until another can."""
        model = self.models[name]
        remaining = {other: self.models[other] for other in self.models if other != name}
        if self.ready and not self._can_be_ready(remaining):
            if model.state != "unloading":
                reason = "it is gone from the store; it serves on, for without it this replica would not be ready"
                logger.warning("%s: %s", name, reason)
                self._put(replace(model, state="unloading", error=reason, wish=None))
            return
        self.models = remaining
        logger.info("%s is gone from the store and is unloaded", name)
        if model.served:
            self._retire(model.served)

    def _put(self, model: ServedModel) -> None:
        before = self.models.get(model.name)
        self.models = {**self.models, model.name: model}
        if before and before.served and before.served is not model.served:
            self._retire(before.served)

    def _retire(self, served: ServedVersion) -> None:
        """Close what has left the snapshot when its leases are back, with no one waiting for that."""
        thread = threading.Thread(target=served.close, name=f"unload {served.version}", daemon=True)
        thread.start()
        self._unloading = [*(thread for thread in self._unloading if thread.is_alive()), thread]

    def _can_be_ready(self, models: Models) -> bool:
        if self._default_model:
            return serves(models, self._default_model)
        return any(model.served for model in models.values())

    def _choose_default(self, models: Models) -> str | None:
        if self._default_model:
            return self._default_model
        published = [model.name for model in models.values() if model.layer == "published"]
        if published:
            choice = published[0] if len(published) == 1 else None
        else:
            choice = BUILTIN_DEFAULT_MODEL if BUILTIN_DEFAULT_MODEL in models else None
        standing = self._standing_default
        return standing if serves(models, standing) and not serves(models, choice) else choice


def _names(models: Models) -> str:
    return ", ".join(sorted(models)) or "none"
