"""A version as it serves: loaded, proven and warm, with a batcher in front of it, leased to requests and closed when unused."""

import re
import threading
from dataclasses import dataclass

import numpy as np

from model_store.errors import ModelRunError
from model_store.manifest import Calibration
from model_store.preprocessing import Pixels
from model_store.session import SessionOptions
from model_store.version import Version
from service.batcher import Batcher
from service.errors import BadRequestError
from service.postprocessing import Row, to_rows
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
            self.calibration = calibration = manifest.calibration or Calibration()

            def run(images: Pixels) -> list[Row]:  # without self: a cycle would keep the session until Python looks for cycles
                return to_rows(session.run(images), manifest.outputs, calibration)

            warm_up = session.run(np.zeros((self.max_batch_size, manifest.input.height, manifest.input.width, 3), np.uint8))
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

    @property
    def can_abstain(self) -> bool:
        """Whether the version refuses images that are unlike what it knows."""
        return self.calibration.energy_threshold is not None

    @property
    def coverages(self) -> list[float]:
        """The coverages that there are sets of labels for, in the order of the rows' sizes."""
        return [float(coverage) for coverage in self.calibration.conformal_thresholds]

    def find_coverage(self, text: str) -> int:
        """The place of this coverage among `coverages`. Raises BadRequestError that names those there are."""
        offered = list(self.calibration.conformal_thresholds)
        if not offered:
            raise BadRequestError(f"{self.version} has no sets of labels: leave coverage out", code="no_label_sets")
        fraction = re.fullmatch(r"0?(\.[0-9]{1,9})", text)
        coverage = f"0{fraction[1].rstrip('0')}" if fraction else None
        if coverage not in offered:
            raise BadRequestError(
                f"coverage must be one of {', '.join(offered)} for {self.version}, not {text[:40]!r}", code="invalid_parameter"
            )
        return offered.index(coverage)

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
