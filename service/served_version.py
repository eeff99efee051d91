"""A version as it serves: loaded, proven and warm, with a batcher in front of it, leased to requests and closed when unused."""

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ModelRunError
from model_store.preprocessing import Pixels
from model_store.session import SessionOptions, probabilities
from model_store.version import Version
from service.batcher import Batcher
from service.precision import PrecisionWish, choose


@dataclass(frozen=True)
class EngineOptions:
    """How every model is run."""

    max_batch_size: int
    max_queue_delay_seconds: float
    instances: int
    session: SessionOptions
    precision: PrecisionWish = "auto"


class ServedVersion:
    """A proven version. Once `close` was called it gives no more leases, and its batcher is open until the last one is back."""

    def __init__(self, version: Version, options: EngineOptions) -> None:
        """Load, prove and warm; `version` is closed with this, also where it fails. Raises ModelStoreError."""
        self.version = version
        manifest = version.manifest
        try:
            self.choice = choose(version, options.precision, options.session)
            session = self.choice.session
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
        self._closing = False
        self._changed = threading.Condition()

    def take_lease(self) -> bool:
        """Hold this version for one request, which gives the lease back; False where the version is being closed."""
        with self._changed:
            self._leases += not self._closing
            return not self._closing

    def return_lease(self) -> None:
        """Give back what `take_lease` took."""
        with self._changed:
            self._leases -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Give no more leases, wait until every one is back, then end the batcher and let go of the version; blocks."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._leases)
        self.batcher.close()
        self.version.close()
