"""A version as it serves: loaded, proven and warm, with a batcher in front of it, leased to requests and closed when unused."""

import logging
import math
import re
import threading
from dataclasses import dataclass, replace
from typing import Self

from model_store.manifest import Calibration
from model_store.preprocessing import Pixels
from model_store.providers import batch_sizes, count_devices, default_batch_size
from model_store.session import RunControl, SessionOptions
from model_store.version import Version
from service.engine.batcher import Batcher
from service.engine.devices import Devices
from service.engine.latency_profile import LatencyProfile
from service.engine.tuned_settings_lookup import TunedSettingsLookup
from service.engine.variant_selection import RequestedPrecision, choose, load_proven
from service.engine.wait_estimate import WaitEstimate
from service.engine.warm_up import LONGEST_RUN_SECONDS, size_worth_waiting_for, warm_up
from service.engine.watchdog import Watchdog
from service.errors import BadRequestError
from service.host.malloc import trim_memory
from service.prediction.admission import Admission, ModelCapacity
from service.prediction.response import Row, to_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """How a model is run. Without `max_batch_size` batches grow as long as that pays; `tuning`: what `tune` found here.

    `room` is what the model's versions share; without one a version has its own, of `max_queue_size`.
    """

    session: SessionOptions
    instances: int = 1
    max_batch_size: int | None = None
    max_queue_delay_seconds: float = 0.0
    max_queue_size: int = 512
    deadline_seconds: float = 30.0
    precision: RequestedPrecision = "auto"
    run_timeout_seconds: float = 60.0
    tuning: TunedSettingsLookup | None = None
    room: ModelCapacity | None = None

    def for_version(self, version: Version) -> Self:
        """These options with what `tune` chose for this version here, where they were not set by a person."""
        on_cpu = self.session.providers == SessionOptions().providers  # where `tune` measures
        tuned = self.tuning.values_for(version) if self.tuning and on_cpu else {}
        if not tuned:
            return self
        logger.info(
            "%s is tuned: %s",
            version,
            ", ".join(f"{name} {value}" for name, value in tuned.items()),
        )
        threads = tuned.pop("intra_op_num_threads", self.session.intra_op_num_threads)
        return replace(self, session=replace(self.session, intra_op_num_threads=threads), **tuned)


class LoadedVersion:
    """A proven version. Once `close` was called it gives no more leases, and its batcher is open until the last one is back."""

    def __init__(self, version: Version, options: EngineOptions) -> None:
        """Load, prove and warm; `version` is closed with this, also where it fails. Raises ModelStoreError."""
        self.version = version
        manifest = version.manifest
        self.preprocessing = manifest.preprocessing
        self.headers = {"model-digest": f"sha256:{version.digest}"}
        try:
            self.options = options = options.for_version(version)
            self.calibration = calibration = manifest.calibration or Calibration()
            providers = options.session.providers
            largest = min(
                options.max_batch_size or default_batch_size(providers), manifest.max_batch_size
            )
            sizes = batch_sizes(providers, largest)
            here = replace(options.session, batch_sizes=sizes)
            self.choice = choose(version, options.precision, here)
            others = range(1, count_devices(here.providers))
            variant = version.variant(self.choice.precision)
            sessions = [
                self.choice.session,
                *(load_proven(version, variant, replace(here, device=device)) for device in others),
            ]
            longest_seconds = math.inf if options.max_batch_size else LONGEST_RUN_SECONDS
            classes = len(manifest.class_names)
            (seconds, *_) = [
                warm_up(session.run, manifest.input, classes, largest, sizes, longest_seconds)
                for session in sessions
            ]
            trim_memory()
        except BaseException:
            version.close()
            raise
        # None of these functions knows `self`, so that no cycle holds the sessions when this is closed.
        self.max_batch_size = most = (
            max(seconds) if options.max_batch_size else size_worth_waiting_for(seconds)
        )
        self.profile = profile = LatencyProfile(seconds)
        devices, instances = Devices(sessions), options.instances

        def run(images: Pixels, control: RunControl | None) -> list[Row]:
            return to_rows(devices.run(images, control), manifest.outputs, calibration)

        self._watchdog = Watchdog(options.run_timeout_seconds, name=f"{version}-watchdog")
        self.batcher = Batcher(
            self._watchdog.guard(run),
            most,
            instances,
            options.max_queue_delay_seconds,
            name=str(version),
            observe=profile.observe,
        )
        expected_wait = WaitEstimate(
            profile, self.batcher, most, instances, options.max_queue_delay_seconds
        )
        self.admission = Admission(
            options.room or ModelCapacity(options.max_queue_size), expected_wait.seconds
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
            raise BadRequestError(
                f"{self.version} has no sets of labels: leave coverage out", code="no_label_sets"
            )
        fraction = re.fullmatch(r"0?(\.[0-9]{1,9})", text)
        coverage = f"0{fraction[1].rstrip('0')}" if fraction else None
        if coverage not in offered:
            raise BadRequestError(
                f"coverage must be one of {', '.join(offered)} for {self.version}, not {text[:40]!r}",
                code="invalid_parameter",
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
            if self._closing:
                self._changed.notify_all()

    def close(self) -> None:
        """Give no more leases, wait until every one is back, then end the batcher and let go of the version; blocks."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._leases)
        self.batcher.close()
        self._watchdog.close()
        self.version.close()
