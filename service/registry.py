"""Which versions serve: loading them (open, verify, warm, prove), leasing them to requests, closing them when unused.

A request leases one version and keeps it to its end, so it never changes version half-way and never meets a closed batcher.
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model_store import golden
from model_store.aliases import PRODUCTION, standing
from model_store.errors import AliasError, ModelRunError, ModelStoreError, StoreUnreadableError
from model_store.preprocessing import Pixels
from model_store.session import Session, SessionOptions, probabilities
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from model_store.version import Layer, Version
from service.batcher import Batcher
from service.errors import NotFoundError, NotReadyError

State = Literal["loading", "ready", "unloading", "error"]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How every model is run."""

    max_batch_size: int
    max_queue_delay_seconds: float
    instances: int
    session: SessionOptions


class ServedVersion:
    """A proven version, loaded and warm, with the batcher in front of it."""

    def __init__(self, version: Version, options: EngineOptions) -> None:
        """Load, prove and warm; `version` is closed with this, also where it fails. Raises ModelStoreError."""
        self.version = version
        manifest = version.manifest
        try:
            variant = manifest.variants[0]  # the order is the publisher's preference
            session = Session(version.path(variant.file), manifest.input, manifest.outputs, options.session)
            golden.prove(version, session, variant.precision)
            self.max_batch_size = min(options.max_batch_size, manifest.max_batch_size)
            temperature = manifest.calibration.temperature if manifest.calibration else 1.0

            def run(images: Pixels) -> NDArray[np.float32]:
                return probabilities(session.run(images), manifest.outputs, temperature)

            warm_up = run(np.zeros((self.max_batch_size, manifest.input.height, manifest.input.width, 3), np.uint8))
            if warm_up.shape != (expected := (self.max_batch_size, len(manifest.class_names))):
                raise ModelRunError(f"{version}: the model gives scores of shape {warm_up.shape}, expected {expected}")
        except BaseException:
            version.close()
            raise
        self.batcher: Batcher = Batcher(
            run, self.max_batch_size, options.instances, options.max_queue_delay_seconds, name=str(version)
        )
        self._leases = 0
        self._returned = threading.Condition()

    @contextmanager
    def lease(self) -> Iterator["ServedVersion"]:
        """Hold this version for one request."""
        with self._returned:
            self._leases += 1
        try:
            yield self
        finally:
            with self._returned:
                self._leases -= 1
                self._returned.notify_all()

    def close(self) -> None:
        """Wait until every lease is back, then end the batcher's threads and let go of the version; blocks."""
        with self._returned:
            self._returned.wait_for(lambda: not self._leases)
        self.batcher.close()
        self.version.close()


@dataclass
class ServedModel:
    """One model: what serves, and why other versions do not."""

    name: str
    state: State = "loading"
    layer: Layer = "published"
    served: ServedVersion | None = None
    error: str | None = None
    errors: dict[int, str] = field(default_factory=dict)


class Registry:
    """The models of a store as this process serves them. Loading runs in a thread; leasing belongs to the event loop."""

    def __init__(self, store: ModelStore, options: EngineOptions, default_model: str | None = None) -> None:
        self.store = store
        self._options = options
        self._default_model = default_model
        self.models: dict[str, ServedModel] = {}
        self.loaded = False
        self.error: str | None = None

    def load(self) -> None:
        """Bring up every model of the store, each at the version that `production` names, else the latest.

        A version that can not be proven is recorded with its reason, and the one before it is tried. An unreadable store
        is recorded too: the process stays up and says why it is not ready.
        """
        try:
            models = {name: ServedModel(name, layer=self.store.layer(name)) for name in self.store.models()}
        except ModelStoreError as error:
            self.error = str(error)
            logger.error("%s", error)  # noqa: TRY400  the message is written for a person; a traceback adds nothing
            return
        self.models = models
        for model in self.models.values():
            self._load_model(model)
        self.loaded = True

    def close(self) -> None:
        """Unload everything; blocks until requests have ended."""
        for model in self.models.values():
            served, model.served = model.served, None
            if served is not None:
                model.state = "unloading"
                served.close()

    @property
    def ready(self) -> bool:
        """True when every model that can be proven serves: at least one, and the default model where one was set."""
        if not self.loaded or (self._default_model and not self._serves(self._default_model)):
            return False
        return any(model.served for model in self.models.values())

    @property
    def default_model(self) -> str | None:
        """The model of /v1/predict: as set, else the only published one, else the built-in one where none is published."""
        if self._default_model:
            return self._default_model
        published = [model.name for model in self.models.values() if model.layer == "published"]
        if published:
            return published[0] if len(published) == 1 else None
        return BUILTIN_DEFAULT_MODEL if BUILTIN_DEFAULT_MODEL in self.models else None

    def find(self, name: str | None, version: int | None = None) -> ServedVersion:
        """What serves this model, or the default one. Raises NotFoundError, NotReadyError."""
        if name is None:
            name = self.default_model
            if name is None and self.models:
                raise NotFoundError(
                    f"there is no default model: set SERVICE_DEFAULT_MODEL, or name one of {self._names()} in the path",
                    code="no_default_model",
                )
        if not self.loaded and not self.models:
            raise NotReadyError("the models are being loaded" if self.error is None else "the model store can not be read")
        model = self.models.get(name or "")
        if model is None:
            if name is None:
                raise NotReadyError("the store holds no model")
            raise NotFoundError(f"there is no model {name!r}; there are {self._names()}")
        if model.served is None:
            reason = "is being loaded" if model.state == "loading" else "has no version that could be proven"
            raise NotReadyError(f"{name} {reason}; GET /v1/models/{name} says more")
        if version is not None and version != model.served.version.number:
            raise NotFoundError(
                f"version {version} of {name} is not served; version {model.served.version.number} is", code="version_not_found"
            )
        return model.served

    def _serves(self, name: str) -> bool:
        return name in self.models and self.models[name].served is not None

    def _load_model(self, model: ServedModel) -> None:
        try:
            candidates = self._candidates(model.name)
        except (ModelStoreError, OSError) as error:
            logger.error("%s: %s", model.name, error)  # noqa: TRY400  as above
            model.state = "error"
            model.error = str(error) if isinstance(error, AliasError) else "its directory can not be read"
            return
        for number in candidates:
            began = time.perf_counter()
            try:
                served = ServedVersion(self.store.open(model.name, number), self._options)
            except ModelStoreError as error:
                model.errors[number] = "it can not be read" if isinstance(error, StoreUnreadableError) else str(error)
                logger.error("%s/%d is not served: %s", model.name, number, error)  # noqa: TRY400  as above
                continue
            except Exception as error:  # one damaged version must not keep the other models from serving
                model.errors[number] = f"it can not be loaded: {type(error).__name__}; the server's log has the reason"
                logger.exception("%s/%d is not served", model.name, number)
                continue
            model.served, model.state = served, "ready"
            logger.info("%s is ready after %.0f ms", served.version, (time.perf_counter() - began) * 1e3)
            return
        model.state = "error"

    def _candidates(self, name: str) -> Sequence[int]:
        """Versions to try, best first: those that `production` has pointed to and not been rolled back from, else the newest."""
        versions = self.store.versions(name)
        wished = standing(self.store.aliases(name).history(PRODUCTION)) if self.store.layer(name) == "published" else []
        if not wished:
            return versions[::-1]
        latest, *earlier = dict.fromkeys(reversed(wished))
        return [
            latest,
            *(number for number in earlier if number in versions),
        ]  # the latest also where it is gone: its error is shown

    def _names(self) -> str:
        return ", ".join(sorted(self.models)) or "none"
