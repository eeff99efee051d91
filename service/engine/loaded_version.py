"""A version that serves requests: loaded, proven and warmed up, with its own batcher."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cached_property, partial

from model_store.activation_maps import ClassifierWeights, has_activation_maps, read_classifier
from model_store.errors import ModelRunError
from model_store.manifest import Calibration
from model_store.preprocessing import Pixels
from model_store.sealed_model import load_density
from model_store.session import RunControl
from model_store.version import Version
from service.engine.batcher import Batcher
from service.engine.classification import Classification, classify
from service.engine.devices import Devices
from service.engine.extras import ALL_EXTRAS, EMBEDDING, NO_EXTRAS, Extras
from service.engine.lone_run import LoneRun, ProcessBatchers
from service.engine.options import EngineOptions
from service.engine.priority import ImageCount
from service.engine.queued_image import Rows
from service.engine.recent_images import RecentImages
from service.engine.wait_estimate import LatencyProfile, WaitEstimate
from service.engine.warm_model import Measurement, load_measured, load_warm_model
from service.engine.warm_up import best_batch_size, release_memory
from service.engine.watchdog import Watchdog
from service.errors import InvalidModelOutputError
from service.host.thread_priority import run_in_background


class LoadedVersion:
    """A proven version. Every request holds a lease on it while it uses the batcher.

    `close` refuses new leases and keeps the batcher open until the last lease is returned.

    Attributes:
        embedding_dims: Length of an embedding; None if the model has no embedding.
        lone_threads: Threads of the run of a lone image; None if it is run like others.
        load_seconds: How long it took to load in this process.
        warm_up_seconds: How long its warm-up took, here or in its trial.
        recent: Scores and embedding distances of its newest images.
    """

    def __init__(
        self,
        version: Version,
        options: EngineOptions,
        measured: Measurement | None = None,
        *,
        in_background: bool = False,
        batchers: ProcessBatchers | None = None,
    ) -> None:
        """Load, prove and warm up. Takes ownership of `version` and closes it on failure.

        Args:
            version: The version.
            options: How to run it.
            measured: The result if another process has just done the same on this machine.
            in_background: Whether other versions serve meanwhile and must not become slower.
            batchers: Those of the other versions in this process; its own is added.

        Raises:
            ModelStoreError: The version cannot be loaded, or its golden proof fails.
        """
        self.version = version
        began = time.monotonic()
        manifest = version.manifest
        self.preprocessing = manifest.preprocessing
        self.calibration = calibration = manifest.calibration or Calibration()
        with ExitStack() as on_failure:
            on_failure.callback(version.close)
            self.options = options = options.for_version(version)
            load = (
                partial(load_measured, version, options, measured)
                if measured
                else partial(load_warm_model, version, options)
            )
            model = run_in_background(load) if in_background else load()
            self.selected_variant = model.selected_variant
            self.max_batch_size = (
                max(model.seconds) if options.max_batch_size else best_batch_size(model.seconds)
            )
            self.warm_up_seconds = model.warm_up_seconds
            self.profile = LatencyProfile(model.seconds)
            self.embedding_dims = model.selected_variant.session.embedding_dims
            self._density = density = load_density(version, self.embedding_dims)
            self.lone_threads = options.lone_threads if model.lone else None
            self.recent = recent = RecentImages()

            always = EMBEDDING if density else NO_EXTRAS

            # `run` must not refer to `self`: the cycle would keep the sessions alive after `close`.
            def run(
                devices: Devices, extras: Extras, images: Pixels, control: RunControl | None
            ) -> list[Classification | InvalidModelOutputError]:
                try:
                    scores, embeddings, features = devices.run_with(
                        extras | always, images, control
                    )
                except ModelRunError:  # perhaps because it has taken much memory, which stays
                    with suppress(ModelRunError):
                        release_memory(devices.run, manifest.input)
                    raise
                rows = classify(
                    scores, manifest.outputs, calibration, embeddings, density, features
                )
                recent.observe(rows)
                return rows

            self._watchdog = Watchdog(options.run_timeout_seconds, name=f"{version}-watchdog")
            on_failure.callback(self._watchdog.close)
            guarded = _guard(self._watchdog, partial(run, Devices(model.sessions)))
            self._batchers = batchers or ProcessBatchers()
            lone, lone_profile = None, None
            if model.lone:
                lone_guarded = _guard(self._watchdog, partial(run, Devices([model.lone.session])))
                lone_profile = LatencyProfile({1: model.lone.seconds})
                lone = LoneRun(
                    lambda images, extras: lone_guarded[extras](images),
                    self._batchers.others_idle,
                    partial(lone_profile.observe, 1),
                )
            self.batcher = Batcher(
                guarded[NO_EXTRAS],
                self.max_batch_size,
                options.instances,
                options.max_queue_delay_seconds,
                name=str(version),
                on_run=self.profile.observe,
                run_with=lambda images, extras: guarded[extras](images),
                lone=lone,
            )
            on_failure.pop_all()
        self._batchers.add(self.batcher)
        self.wait_estimate = WaitEstimate(
            self.profile,
            self.batcher,
            self.max_batch_size,
            options.instances,
            options.max_queue_delay_seconds,
            lone_profile,
        )
        self.admitted = ImageCount()
        self.load_seconds = time.monotonic() - began
        self._leases = 0
        self._closing = False
        self._lock = threading.Lock()  # faster than the condition's own methods, which are Python
        self._changed = threading.Condition(self._lock)

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return self.options.session.intra_op_num_threads

    @property
    def stopped_part(self) -> str | None:
        """A thread that has ended unexpectedly. Only a restart of the service helps."""
        if self.batcher.has_stopped:
            return "an instance"
        return "the watchdog" if self._watchdog.has_stopped else None

    @property
    def terminated_runs(self) -> int:
        """Runs that the watchdog has terminated."""
        return self._watchdog.terminated_runs

    @property
    def can_abstain(self) -> bool:
        """Whether the version abstains on images that are unlike its training data."""
        return self.calibration.energy_threshold is not None or self._density is not None

    @property
    def can_explain(self) -> bool:
        """Whether the version has what activation maps need."""
        return has_activation_maps(self.version)

    @cached_property
    def classifier(self) -> ClassifierWeights:
        """The last layer, which is read when an explanation first needs it."""
        return read_classifier(self.version)

    @property
    def coverages(self) -> list[float]:
        """The coverages that have prediction sets, in the order of `Classification.set_sizes`."""
        return [float(coverage) for coverage in self.calibration.conformal_thresholds]

    def take_lease(self) -> bool:
        """Hold this version for one request; False if it is being closed."""
        with self._lock:
            self._leases += not self._closing
            return not self._closing

    def return_lease(self) -> None:
        with self._lock:
            self._leases -= 1
            if self._closing:
                self._changed.notify_all()

    def close(self) -> None:
        """Give no more leases, wait until all are returned, then free everything. Blocks."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: not self._leases)
        self.batcher.close()
        self._batchers.remove(self.batcher)
        self._watchdog.close()
        self.version.close()


def _guard(
    watchdog: Watchdog, run: Callable[[Extras, Pixels, RunControl | None], Rows]
) -> dict[Extras, Callable[[Pixels], Rows]]:
    """The run of each set of extra outputs, with the time limit."""
    return {extras: watchdog.guard(partial(run, extras)) for extras in ALL_EXTRAS}
