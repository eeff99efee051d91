"""What trials remember, and when a version is tried again."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asgi_application import until
from colour_model import MODEL, alter, publish
from operating import eventually
from registries import options, serving
from server_process import PATIENCE_SECONDS

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.engine.tuned_settings import TunedSettingsLookup
from service.engine.warm_model import Measurement
from service.versions import candidate as candidates
from service.versions import due, loading, reconciler, trial_records, trials
from service.versions.candidate import Candidate
from service.versions.load_failure import LoadFailure
from service.versions.reconciler import reconcile
from service.versions.registry import Registry
from service.versions.trial import STOPPED, Trial
from service.versions.trial_records import TrialRecords
from service.versions.trials import TrialPassed, Trials
from service.versions.watcher import watch

MEASUREMENT = Measurement(
    precision="fp32", note=None, left_out={}, milliseconds={}, seconds={1: 1}, warm_up_seconds=1
)
LIMIT = 1000
TIMEOUT = LoadFailure("too slow", "overload")
TOO_LARGE = LoadFailure("too large", "memory", LIMIT)
SHORT = LoadFailure("no thread", "shortage")
DAMAGED = LoadFailure("damaged", "version")
UNREADABLE = LoadFailure("unreadable", "host")
Result = Measurement | LoadFailure


class ScriptedTrials:
    """The results of the next trials; the last one is repeated. `count` is how many were run."""

    def __init__(self) -> None:
        self.results: list[Result] = [MEASUREMENT]
        self.count = 0
        self.may_end = threading.Event()
        self.may_end.set()

    def run(self) -> Result:
        self.count += 1
        assert self.may_end.wait(PATIENCE_SECONDS)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> ScriptedTrials:
    """What happens in the process of a trial is another test's subject."""
    scripted = ScriptedTrials()
    monkeypatch.setattr(Trial, "run", scripted.run)
    return scripted


@pytest.fixture
def new_trials(tmp_path: Path) -> Iterator[Callable[..., Trials]]:
    """Trials as after a restart: those made before are stopped."""
    made: list[Trials] = []

    def stop() -> None:
        for each in made:
            each.stop()
            each.join()

    def make(**limits: Any) -> Trials:
        stop()
        made.append(Trials(TrialRecords(tmp_path / "cache"), 60, **limits))
        return made[-1]

    yield make
    stop()


@pytest.fixture
def candidate(store: ModelStore) -> Candidate:
    return Candidate(store, MODEL, 1, "0" * 64, options(MODEL))


def outcome(trials: Trials, candidate: Candidate) -> TrialPassed | LoadFailure:
    """The outcome once no trial runs any more."""
    found: list[TrialPassed | LoadFailure] = []

    def ask() -> bool:
        answer = trials.outcome_or_start(candidate)
        if answer:
            found.append(answer)
        return answer is not None

    eventually(ask, True)
    return found[0]


def test_version_is_tried_again_when_more_memory_is_available(
    new_trials: Callable[..., Trials],
    candidate: Candidate,
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also after a restart. A small gain is not worth a trial."""
    available = [LIMIT]
    monkeypatch.setattr(trials, "default_memory_limit", lambda: available[-1])
    scripted.results = [TOO_LARGE, MEASUREMENT]
    failure = outcome(new_trials(), candidate)
    assert isinstance(failure, LoadFailure)
    assert (failure.cause, failure.retry_seconds) == ("memory", 60)
    restarted = new_trials()
    available.append(LIMIT + 10)
    assert isinstance(outcome(restarted, candidate), LoadFailure)
    assert scripted.count == 1
    available.append(2 * LIMIT)
    assert isinstance(outcome(restarted, candidate), TrialPassed)
    assert scripted.count == 2


@pytest.mark.parametrize("failure", [TIMEOUT, SHORT], ids=["timeout", "threads"])
def test_failure_of_a_busy_host_is_retried_a_few_times(
    failure: LoadFailure,
    new_trials: Callable[..., Trials],
    candidate: Candidate,
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until the last retry is over, the failure says when the next one is due."""
    monkeypatch.setattr(trial_records, "OVERLOAD_PAUSES", (0.0, 0.0, 0.0))
    scripted.results = [failure]
    tried = new_trials()
    last = outcome(tried, candidate)
    assert isinstance(last, LoadFailure)
    assert (scripted.count, last.retry_seconds) == (4, None)
    outcome(tried, replace(candidate, promotions=1))
    assert scripted.count == 8


def test_pause_is_kept_across_a_restart(
    new_trials: Callable[..., Trials], candidate: Candidate, scripted: ScriptedTrials
) -> None:
    """Else each restart of a version that hangs would try it again."""
    scripted.results = [TIMEOUT]
    outcome(new_trials(), candidate)
    failure = outcome(new_trials(), candidate)
    assert isinstance(failure, LoadFailure)
    assert scripted.count == 1
    assert failure.retry_seconds == pytest.approx(120, abs=60)
    outcome(new_trials(memory_bytes=LIMIT), candidate)
    assert scripted.count == 2


def test_unreadable_version_is_tried_again_after_growing_pauses(
    new_trials: Callable[..., Trials],
    candidate: Candidate,
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They grow also if the trial passes and the service itself cannot read it."""
    now = [0.0]
    monkeypatch.setattr(trials.time, "monotonic", lambda: now[0])
    scripted.results = [UNREADABLE, UNREADABLE, MEASUREMENT]
    tried = new_trials()

    def pause() -> float:
        tried.run(candidate)
        failure = tried.outcome_or_start(candidate)
        assert isinstance(failure, LoadFailure)
        assert failure.retry_seconds
        return failure.retry_seconds

    assert [pause(), pause()] == [10, 20]
    tried.run(candidate)
    assert isinstance(tried.outcome_or_start(candidate), TrialPassed)
    assert tried.postpone(candidate, UNREADABLE).retry_seconds == 40
    assert isinstance(tried.outcome_or_start(candidate), LoadFailure)
    now[0] += 40
    assert isinstance(tried.outcome_or_start(candidate), TrialPassed)
    for _ in range(20):
        failure = tried.postpone(candidate, UNREADABLE)
    assert failure.retry_seconds == 300
    tried.forget_postponed(candidate)
    assert isinstance(tried.outcome_or_start(candidate), TrialPassed)
    assert tried.postpone(candidate, UNREADABLE).retry_seconds == 10


def test_outcome_of_a_version_that_was_not_wanted_is_not_fresh_later(
    new_trials: Callable[..., Trials],
    candidate: Candidate,
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promotion means a new trial, or the verification of files that may have changed since."""
    tried, promoted = new_trials(), replace(candidate, promotions=1)
    scripted.results = [DAMAGED]
    tried.run(candidate)
    scripted.results = [MEASUREMENT]
    assert tried.outcome_or_start(promoted) is None
    tried.run(promoted)
    assert scripted.count == 2
    promoted_again = replace(candidate, promotions=2)
    assert tried.outcome_or_start(promoted_again) == TrialPassed()
    other = replace(candidate, number=2)
    tried.run(other)
    monkeypatch.setattr(trials, "MEASUREMENT_SECONDS", -1.0)
    assert tried.outcome_or_start(other) == TrialPassed()
    monkeypatch.undo()


def test_shutdown_is_not_told_as_a_failure_of_the_version(
    new_trials: Callable[..., Trials], candidate: Candidate, scripted: ScriptedTrials
) -> None:
    """Even if the version had failed before."""
    tried = new_trials()
    scripted.results = [DAMAGED, STOPPED]
    tried.run(candidate)
    tried.stop()
    tried.run(candidate)
    assert tried.outcome_or_start(candidate) is STOPPED


def test_measurement_of_a_trial_is_used_once(
    new_trials: Callable[..., Trials], candidate: Candidate, scripted: ScriptedTrials
) -> None:
    tried = new_trials()
    tried.run(candidate)
    assert tried.outcome_or_start(candidate) == TrialPassed(MEASUREMENT)
    assert tried.outcome_or_start(candidate) == TrialPassed()
    assert scripted.count == 1


@pytest.mark.slow
def test_trial_that_gets_no_thread_is_postponed(
    new_trials: Callable[..., Trials],
    candidate: Candidate,
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If its thread starts after all, that does no harm."""
    tried = new_trials()
    scripted.may_end.clear()
    executor = tried._executor

    def queue_and_fail(*arguments: Any) -> Any:
        type(executor).submit(executor, *arguments)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(executor, "submit", queue_and_fail)
        failure = tried.outcome_or_start(candidate)
    assert isinstance(failure, LoadFailure)
    assert failure.is_fault_of_host
    other = replace(candidate, number=2)
    assert tried.outcome_or_start(other) is None
    eventually(lambda: scripted.count, 2)
    scripted.results = [STOPPED, MEASUREMENT]
    scripted.may_end.set()
    tried.run(candidate)
    assert isinstance(outcome(tried, candidate), TrialPassed)
    assert isinstance(outcome(tried, other), TrialPassed)


def test_version_is_closed_if_its_trial_cannot_be_started(
    store: ModelStore, new_trials: Callable[..., Trials], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else `prune` could never delete it."""
    publish(store)
    registry = Registry(store, options, trials=new_trials())
    opened = []
    open_version = ModelStore.open

    def remember(*arguments: Any, **named: Any) -> Any:
        opened.append(open_version(*arguments, **named))
        return opened[-1]

    def fail(_: Candidate) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(ModelStore, "open", remember)
    monkeypatch.setattr(registry.trials, "outcome_or_start", fail)
    reconcile(registry)
    assert list(registry.models[MODEL].errors) == [1]
    assert [version._lock._descriptor for version in opened] == [-1]
    registry.close()


def test_key_covers_what_a_trial_depends_on(
    candidate: Candidate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of Resident, GPU, provider, number of threads or batch means a new trial."""
    default = candidate.options.session
    sessions = (
        replace(default, intra_op_num_threads=3),
        replace(default, providers=("OpenVINOExecutionProvider", "CPUExecutionProvider")),
        replace(default, concurrent_runs=9),
    )
    others = [
        replace(candidate, number=2),
        replace(candidate, digest="1" * 64),
        replace(candidate, options=replace(candidate.options, max_batch_size=4)),
        replace(candidate, options=replace(candidate.options, precision="int8")),
        *(replace(candidate, options=replace(candidate.options, session=s)) for s in sessions),
    ]
    keys = {each.key for each in (candidate, *others)}
    monkeypatch.setattr(candidates, "__version__", "0.0.0")
    keys.add(replace(candidate).key)
    monkeypatch.setattr(candidates, "describe_devices", lambda _: ("driver 1", "GPU"))
    keys.add(replace(candidate).key)
    assert len(keys) == len(others) + 3
    assert replace(candidate, promotions=7).key == replace(candidate).key


def test_trial_runs_with_the_tuned_settings(
    store: ModelStore,
    tmp_path: Path,
    new_trials: Callable[..., Trials],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version is tried again after they have changed."""
    publish(store)
    tried: list[Candidate] = []
    values: dict[str, int] = {}
    monkeypatch.setattr(TunedSettingsLookup, "values_for", lambda *_, **__: dict(values))
    lookup = TunedSettingsLookup(tmp_path, 2)
    registry = Registry(
        store, lambda model: replace(options(model), tuned_settings=lookup), trials=new_trials()
    )
    monkeypatch.setattr(registry.trials, "outcome_or_start", tried.append)
    reconcile(registry)
    values["intra_op_num_threads"] = 2
    reconcile(registry)
    assert [each.options.session.intra_op_num_threads for each in tried] == [1, 2]
    assert tried[0].key != tried[1].key
    registry.close()


def test_load_that_the_host_prevents_is_postponed(
    store: ModelStore,
    new_trials: Callable[..., Trials],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A version that has passed its trial is not verified again at every reconciliation."""
    publish(store)
    registry = Registry(store, options, trials=new_trials())
    loads: list[object] = []

    def fail(*arguments: object, **_: object) -> LoadedVersion:
        loads.append(arguments)
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(loading, "LoadedVersion", fail)
        eventually(lambda: (reconcile(registry), len(loads))[1], 1)
        for _ in range(3):
            reconcile(registry)
        assert len(loads) == 1
    assert set(registry.models[MODEL].retry_at) == {1}
    assert registry.trials
    loading.try_version(registry, MODEL, 1)
    with registry.exclusive() as change:
        loading.prove_version(change, MODEL, 1)
    assert serving(registry) == 1
    registry.close()


def test_failed_version_is_not_opened_before_it_is_due(
    store: ModelStore,
    new_trials: Callable[..., Trials],
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading its manifest at every reconciliation would cost time, and show it as loading."""
    publish(store)
    scripted.results = [TIMEOUT]
    registry = Registry(store, options, trials=new_trials())
    loading.try_version(registry, MODEL, 1)
    reconcile(registry)
    assert set(registry.models[MODEL].retry_at) == {1}
    opened: list[int] = []
    monkeypatch.setattr(reconciler, "load_version", lambda *arguments: opened.append(arguments[2]))
    for _ in range(3):
        reconcile(registry)
    assert opened == []
    store.promote(MODEL, 1)
    reconcile(registry)
    assert opened == [1]
    registry.close()


def test_altered_version_is_not_taken_for_the_one_that_passed(
    store: ModelStore, new_trials: Callable[..., Trials], scripted: ScriptedTrials
) -> None:
    """Its files are verified, because they have changed since the trial."""
    publish(store)
    registry = Registry(store, options, trials=new_trials())
    loading.try_version(registry, MODEL, 1)
    store.promote(MODEL, 1)
    alter(store, 1)
    reconcile(registry)
    assert (serving(registry), list(registry.models[MODEL].errors)) == (None, [1])
    assert scripted.count == 1
    registry.close()


@pytest.mark.anyio
@pytest.mark.parametrize("poll_seconds", [0, 3600])
async def test_start_and_retries_do_not_wait_for_the_next_poll(
    store: ModelStore,
    new_trials: Callable[..., Trials],
    scripted: ScriptedTrials,
    monkeypatch: pytest.MonkeyPatch,
    poll_seconds: float,
) -> None:
    """The start ends after its time, and a version that failed is tried again after its pause."""
    monkeypatch.setattr(due, "STARTUP_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(due, "MIN_WAIT_SECONDS", 0.01)
    for module in (trials, due):
        monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    publish(store)
    scripted.may_end.clear()
    scripted.results = [UNREADABLE, UNREADABLE, MEASUREMENT]
    registry = Registry(store, options, trials=new_trials())
    stopping, announced = asyncio.Event(), asyncio.Event()
    watching = asyncio.create_task(
        watch(registry, poll_seconds, stopping, lambda _: announced.set())
    )
    await asyncio.wait_for(announced.wait(), PATIENCE_SECONDS)
    assert registry.models[MODEL].on_trial == {1}
    scripted.may_end.set()
    await asyncio.wait_for(until(lambda: serving(registry) == 1), PATIENCE_SECONDS)
    assert scripted.count == 3
    stopping.set()
    await watching
    await asyncio.to_thread(registry.close)
