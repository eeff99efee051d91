"""Which versions serve: brought in line with the store's wishes while requests lease what serves.

A request leases one version and keeps it to its end, so it never changes version half-way and never meets a closed batcher.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from model_store.errors import AliasError, ModelStoreError, StoreUnreadableError
from model_store.store import Contents, ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.options import EngineOptions
from service.errors import ConflictError, NotReadyError
from service.log_on_change import LogOnChange
from service.versions.desired_versions import (
    DEFAULT_POLICY,
    DesiredVersions,
    DesiredVersionsReader,
    Hold,
)
from service.versions.draining import DrainingVersions
from service.versions.readiness import RequiredModels
from service.versions.reconciler import Failure, ServedModel, VersionStateName, follow, try_version
from service.versions.snapshot import Models, choose_default, find_version
from service.versions.version_policy import VersionPolicy

logger = logging.getLogger(__name__)


class Registry:
    """The models of a store as this process serves them.

    `models` is a snapshot: it is never changed, only replaced by one assignment, and only by the thread that has the turn.
    Everyone else reads it once and works on what was found. A version is closed only after it has left the snapshot, and gives
    no lease from then on, so who finds it too late looks again and finds its successor.
    """

    def __init__(
        self,
        store: ModelStore,
        options: Callable[[str], EngineOptions],
        default_model: str | None = None,
        policy_of: Callable[[str], VersionPolicy] = lambda _: DEFAULT_POLICY,
        required: RequiredModels | None = None,
    ) -> None:
        self.store = store
        self.required = required or RequiredModels(default_model)
        self.troubles = LogOnChange()
        self._options = options
        self._default_model = default_model
        self.policy_of = policy_of
        self._wishes = DesiredVersionsReader(store)
        self._holds: dict[str, dict[int, Hold]] = {}
        self._standing_default: str | None = None
        self._unloading = DrainingVersions()
        self._turn = threading.RLock()
        self._closed = False
        self.models: Models = {}
        self.loaded = False
        self.error: str | None = None

    def load(self) -> None:
        """Bring what serves in line with the store: everything at the start, and what has changed since when called again.

        Each model at the versions that its policy selects; what served before serves until then. A version that can not be
        proven is recorded with its reason, and the one before it is tried, or stays. An unreadable store is recorded too and
        changes nothing else. Blocks, also while another has the turn.
        """
        with self._turn:
            reported = self.error
            try:
                contents = self.store.contents()
                self.error = None
                self._follow(contents)
            except Exception as error:
                known = isinstance(
                    error, ModelStoreError
                )  # its message is written for a person; a traceback adds nothing
                self.error = str(error) if known else "loading the models failed"
                if self.error != reported:  # once, not at every look
                    logger.error("%s", self.error, exc_info=not known)  # noqa: TRY400  as above
                return
            finally:
                self._unloading.tidy()
            if reported:
                logger.info("the model store can be read again")

    def close(self) -> None:
        """Unload everything; blocks until requests have ended."""
        with self._turn:
            self._closed = True
            serving = [
                served for model in self.models.values() for served in model.serving.values()
            ]
            self.models = {
                name: replace(model, state="unloading", served=None, serving={})
                for name, model in self.models.items()
            }
        for served in serving:
            served.close()
        self._unloading.join()

    @property
    def ready(self) -> bool:
        """True once the models were loaded, as long as the required ones serve, and at least one."""
        return self.loaded and self.required.are_served(self.models)

    @property
    def default_model(self) -> str | None:
        """The model of /v1/predict: as set, else the only published one, else the built-in one where none is published.

        One that serves already keeps the place from a change of the store that would leave it to none, or to one that fails.
        """
        return choose_default(self.models, self._default_model, self._standing_default)

    def find(self, name: str | None, version: int | None = None) -> LoadedVersion:
        """What serves this model, or the default one. Raises NotFoundError, NotReadyError."""
        models = self.models
        if not self.loaded and not models:
            raise NotReadyError(
                "the models are being loaded"
                if self.error is None
                else "the model store can not be read"
            )
        return find_version(
            models,
            name or choose_default(models, self._default_model, self._standing_default),
            version,
        )

    @contextmanager
    def lease(self, name: str | None, version: int | None = None) -> Iterator[LoadedVersion]:
        """Hold what `find` finds until the end of one request. Raises NotFoundError, NotReadyError."""
        while not (served := self.find(name, version)).take_lease():
            pass  # another took its place since it was found
        try:
            yield served
        finally:
            served.return_lease()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one who changes what serves: for several of the steps below that belong together. Blocks."""
        with self._turn:
            if self._closed:
                raise NotReadyError("the service is being stopped")
            yield

    def prove(self, name: str, number: int) -> None:
        """Have this version serve beside the others until the wish is followed next, also where it failed before.

        Only with the turn. Raises ConflictError with the reason where it can not be proven; nothing has changed then but that.
        NotReadyError where it could not be read.
        """
        layer = self.store.layer(name)
        model = self.models.get(name) or ServedModel(name, layer=layer)
        served = model.serving.get(number)
        if served and model.state != "unloading" and served.version.layer == layer:
            return
        self._put(replace(model, loading=number))
        loaded = try_version(name, number, self.store, self._options(name))
        if isinstance(loaded, Failure):
            if not loaded.unread:  # what could not be read may be right the next time
                model = replace(
                    model,
                    errors={**model.errors, number: loaded.reason},
                    unread=model.unread - {number},
                )
            self._put(
                replace(
                    model,
                    state=model.state if model.served or model.state == "unloaded" else "error",
                )
            )
            if loaded.unread:
                raise NotReadyError(
                    f"version {number} of {name} can not be read; the server's log says why"
                )
            raise ConflictError(
                f"version {number} of {name} can not serve: {loaded.reason}", code="version_failed"
            )
        errors = {failed: reason for failed, reason in model.errors.items() if failed != number}
        serving = {**model.serving, number: loaded}
        served = serving[model.served.version.number] if model.served else loaded
        self._put(
            replace(
                model,
                state="ready",
                served=served,
                serving=serving,
                loading=None,
                errors=errors,
                wish=None,
            )
        )

    def hold(self, name: str, number: int, hold: Hold | None) -> None:
        """Keep a version loaded or unloaded on this replica whatever the store says, or with None leave it to the policy again.

        Only with the turn. Raises ConflictError where this replica would not be ready without that version.
        """
        model = self.models.get(name)
        is_last = model is not None and list(model.serving) == [number]
        if (
            hold == "unload"
            and is_last
            and self.ready
            and not self.required.can_spare(self.models, name)
        ):
            raise ConflictError(
                f"version {number} is the last of {name}, which must serve here (SERVICE_REQUIRED_MODELS): load another first",
                code="last_version",
            )
        holds = {held: what for held, what in self._holds.get(name, {}).items() if held != number}
        self._holds[name] = {**holds, number: hold} if hold else holds

    def states(self, name: str) -> dict[int, VersionStateName]:
        """What this process knows of the versions of a model, by number, without a look at the store.

        A version that failed is in `error` also where the built-in one of its number serves.
        """
        model = self.models.get(name)
        states: dict[int, VersionStateName] = dict.fromkeys(
            self._unloading.numbers(name), "unloading"
        )
        if model:
            states |= dict.fromkeys(model.serving, "ready")
            states |= dict.fromkeys(model.errors, "error")
            states |= {model.loading: "loading"} if model.loading else {}
        return states

    def held(self, name: str) -> Mapping[int, Hold]:
        """Which versions of a model are held loaded or unloaded on this replica."""
        return self._holds.get(name, {})

    def _follow(self, contents: Mapping[str, Contents]) -> None:
        if self._closed:
            return
        wishes = self._read_wishes(contents)
        if not self.loaded:
            self.models = {
                name: ServedModel(name, layer=wish.layer) for name, wish in wishes.items()
            } | dict(self.models)
        for name, wish in wishes.items():
            self._follow_wish(name, wish)
        for name in sorted(
            self.models.keys() - set(contents)
        ):  # last, so that what has come can take over from what is gone
            self._unload(name)
        self._wishes.forget_all_but(contents)
        if not self.loaded:
            self.required.find(self.models)
        self.loaded = True
        if (default := self.default_model) != self._standing_default:
            logger.info(
                "/v1/predict asks %s", default or "for a model's name: there is no default model"
            )
            self._standing_default = default

    def _read_wishes(self, contents: Mapping[str, Contents]) -> dict[str, DesiredVersions]:
        wishes = {}
        for name, found in contents.items():
            try:
                if found.trouble:
                    raise StoreUnreadableError(found.trouble)
                wish = self._wishes.read(name, found, self.policy_of(name))
            except (ModelStoreError, OSError) as error:
                model = self.models.get(name) or ServedModel(name)
                reason = (
                    str(error) if isinstance(error, AliasError) else "its directory can not be read"
                )
                if reason != model.error:
                    logger.error("%s: %s", name, error)  # noqa: TRY400  as above
                self._put(
                    replace(model, state=model.state if model.served else "error", error=reason)
                )
            else:
                wishes[name] = replace(wish, holds=tuple(sorted(self.held(name).items())))
        return wishes

    def _follow_wish(self, name: str, wish: DesiredVersions) -> None:
        model = self.models.get(name) or ServedModel(name)
        if wish != model.wish or model.unread or model.error:
            for step in follow(model, wish, self.store, self._options(name)):
                self._put(step)

    def _unload(self, name: str) -> None:
        """Let go of a model that is gone from the store; but what this replica is ready by serves until another can."""
        model = self.models[name]
        if self.ready and not self.required.can_spare(self.models, name, gone=True):
            if model.state != "unloading":
                reason = "it is gone from the store; it serves on, for without it this replica would not be ready"
                logger.warning("%s: %s", name, reason)
                self._put(replace(model, state="unloading", error=reason, wish=None))
            return
        self.models = {other: self.models[other] for other in self.models if other != name}
        self.required.forget(name)
        self._holds.pop(name, None)
        logger.info("%s is gone from the store and is unloaded", name)
        for served in model.serving.values():
            self._unloading.retire(served)

    def _put(self, model: ServedModel) -> None:
        before = self.models.get(model.name)
        self.models = {**self.models, model.name: model}
        for served in before.serving.values() if before else ():
            if served is not model.serving.get(served.version.number):
                self._unloading.retire(served)
