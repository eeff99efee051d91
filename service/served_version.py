"""A version as it serves: loaded, proven and warm, with a batcher in front of it, leased to requests and closed when unused."""

import logging
import math
import re
import threading
from dataclasses import dataclass, replace
from typing import Final, Self

from model_store.errors import ModelRunError
from model_store.manifest import Calibration
from model_store.preprocessing import Pixels
from model_store.session import Logits, SessionOptions
from model_store.version import Version
from service.admission import Admission
from service.batcher import Batcher
from service.errors import BadRequestError
from service.latency_profile import LONGEST_RUN_SECONDS, LatencyProfile, measure
from service.postprocessing import Row, to_rows
from service.precision import PrecisionWish, choose
from service.tuning import Tuning

logger = logging.getLogger(__name__)

LARGEST_BATCH: Final = 32


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run. Without `max_batch_size` batches grow as long as a run stays short; `tuning`: what `tune` found here."""

    session: SessionOptions
    instances: int = 1
    max_batch_size: int | None = None
    max_queue_delay_seconds: float = 0.0
    max_queue_size: int = 512
    deadline_seconds: float = 30.0
    precision: PrecisionWish = "auto"
    tuning: Tuning | None = None

    def for_version(self, version: Version) -> Self:
        """These options with what `tune` chose for this version here, where they were not set by a person."""
        on_cpu = self.session.providers == SessionOptions().providers  # where `tune` measures
        tuned = self.tuning.values_for(version) if self.tuning and on_cpu else {}
        if not tuned:
            return self
        logger.info("%s is tuned: %s", version, ", ".join(f"{name} {value}" for name, value in tuned.items()))
        threads = tuned.pop("intra_op_num_threads", self.session.intra_op_num_threads)
        return replace(self, session=replace(self.session, intra_op_num_threads=threads), **tuned)


class ServedVersion:
    """A proven version. Once `close` was called it gives no more leases, and its batcher is open until the last one is back."""

    def __init__(self, version: Version, options: EngineOptions) -> None:
        """Load, prove and warm; `version` is closed with this, also where it fails. Raises ModelStoreError."""
        self.version = version
        manifest = version.manifest
        self.preprocessing = manifest.preprocessing
        self.headers = {"model-digest": f"sha256:{version.digest}"}
        try:
            self.options = options = options.for_version(version)
            self.choice = choose(version, options.precision, options.session)
            session = self.choice.session
            self.calibration = manifest.calibration or Calibration()

            def run(images: Pixels) -> list[Row]:
                return to_rows(session.run(images), manifest.outputs, self.calibration)

            largest = min(options.max_batch_size or LARGEST_BATCH, manifest.max_batch_size)
            longest_seconds = math.inf if options.max_batch_size else LONGEST_RUN_SECONDS
            seconds = measure(lambda images: self._check_shape(session.run(images)), manifest.input, largest, longest_seconds)
        except BaseException:
            version.close()
            raise
        self.max_batch_size = max(seconds)
        self.profile = LatencyProfile(seconds)
        self.admission = Admission(options.max_queue_size, self._predict_seconds)
        self.batcher = Batcher(
            run,
            self.max_batch_size,
            options.instances,
            options.max_queue_delay_seconds,
            name=str(version),
            observe=self.profile.observe,
        )
        self._leases = 0
        self._closing = False
        self._changed = threading.Condition()

    def _predict_seconds(self, ahead: int, images: int) -> float:
        return self.profile.wait_seconds(ahead, images, self.max_batch_size, self.options.instances)

    def _check_shape(self, scores: Logits) -> None:
        classes = len(self.version.manifest.class_names)
        if scores.ndim != 2 or scores.shape[1] != classes:
            raise ModelRunError(f"{self.version}: the model gives scores of shape {scores.shape}, expected {classes} an image")

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
