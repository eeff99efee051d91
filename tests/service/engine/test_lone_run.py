"""An image that is alone in the process is run with all threads; others are not."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from batchers import LARGEST, answered, batching, submit
from colour_model import COLOURS, MODEL, SIZE, publish
from gated_model import GatedModel, numbered, read_numbers
from server_process import PATIENCE_SECONDS

from model_store.errors import ModelRunError
from model_store.providers import CUDA
from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine import lone_run
from service.engine.batcher import Batcher
from service.engine.classification import Classification
from service.engine.loaded_version import LoadedVersion
from service.engine.lone_run import LoneRun, ProcessBatchers
from service.engine.measurement_cache import MeasurementCache
from service.engine.options import EngineOptions, engine_options
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.engine.wait_estimate import LatencyProfile, WaitEstimate
from service.engine.warm_model import Measurement, load_warm_model
from service.errors import InferenceError
from service.settings import Settings
from service.versions.loading import load_version
from service.versions.registry import Registry

THREADS = 2
SECONDS = {1: 10_000.0, 4: 40_000.0}  # far longer than any test
LONE_SECONDS = 6_000.0
TOLERANCE_SECONDS = 100.0


async def until_idle(*batchers: Batcher) -> None:
    """Wait until all instance threads sleep."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        # Threads set no event.
        while not all(batcher.is_idle for batcher in batchers):  # noqa: ASYNC110
            await asyncio.sleep(0)


@contextmanager
def gated_lone_run(**options: object) -> Iterator[tuple[Batcher, GatedModel, GatedModel]]:
    """A batcher, the model that runs lone images, and the model that runs all others."""
    alone, others = GatedModel(read_numbers), GatedModel(read_numbers)
    lone = LoneRun(lambda images, _: alone(images))
    with batching(others, instances=2, lone=lone, **options) as batcher:
        try:
            yield batcher, alone, others
        finally:
            alone.gate.set()


@pytest.mark.anyio
async def test_images_that_arrive_during_a_lone_run_do_not_wait_for_it() -> None:
    """Another instance runs them with one thread. The next image in an idle process is alone."""
    with gated_lone_run() as (batcher, alone, others):
        others.gate.set()
        await until_idle(batcher)
        first = submit(batcher, 1)
        await alone.begun()
        assert await answered(submit(batcher, 2)) == [2]
        assert (alone.sizes, others.sizes, batcher.lone_runs) == ([1], [1], 0)
        alone.gate.set()
        assert await answered(first) == [1]
        await until_idle(batcher)
        assert await answered(submit(batcher, 3)) == [3]
        assert (alone.sizes, others.sizes, batcher.lone_runs) == ([1, 1], [1], 2)


@pytest.mark.anyio
async def test_image_is_not_alone_beside_a_run() -> None:
    """Neither while another image runs, nor with another image in its own batch."""
    with gated_lone_run() as (batcher, alone, others):
        await until_idle(batcher)
        pair = batcher.submit_all(
            [np.zeros((1, 1, 3), np.uint8)] * 2, time.monotonic() + PATIENCE_SECONDS
        )
        await others.begun()
        single = submit(batcher, 1)
        await others.begun()
        others.gate.set()
        await asyncio.gather(pair, *single)
        assert (alone.sizes, others.sizes, batcher.lone_runs) == ([], [2, 1], 0)
        assert batcher.batch_sizes == {2: 1, 1: 1}


@pytest.mark.anyio
async def test_image_is_not_alone_beside_another_model() -> None:
    """All batchers of the process must be idle; a removed one does not count."""
    process, alone = ProcessBatchers(), GatedModel(read_numbers)
    alone.gate.set()
    lone = LoneRun(lambda images, _: alone(images), process.others_idle)
    with (
        batching(read_numbers, instances=2, lone=lone) as batcher,
        batching(GatedModel(read_numbers)) as other,
    ):
        process.add(batcher)
        process.add(other)
        await until_idle(batcher, other)
        waiting = submit(other, 1)
        assert await answered(submit(batcher, 2)) == [2]
        assert batcher.lone_runs == 0
        process.remove(other)
        await until_idle(batcher)
        assert await answered(submit(batcher, 3)) == [3]
        assert batcher.lone_runs == 1
        waiting[0].cancel()


@pytest.mark.anyio
async def test_lone_run_that_fails_fails_its_image_only() -> None:
    """The next lone image is run as before."""
    runs = iter([ValueError("it fails"), None])

    def fail_once(images: np.ndarray) -> np.ndarray:
        if error := next(runs):
            raise error
        return read_numbers(images)

    lone = LoneRun(lambda images, _: fail_once(images))
    with batching(read_numbers, instances=2, lone=lone) as batcher:
        await until_idle(batcher)
        with pytest.raises(InferenceError):
            await submit(batcher, 1)[0]
        await until_idle(batcher)
        assert batcher.lone_run is None
        assert await answered(submit(batcher, 2)) == [2]
        assert batcher.lone_runs == 1


@asynccontextmanager
async def lone_run_in_progress(
    priority: Priority,
) -> AsyncIterator[WaitEstimate]:
    with gated_lone_run() as (batcher, alone, others):
        await until_idle(batcher)
        futures = [batcher.submit(numbered(1), time.monotonic() + PATIENCE_SECONDS, priority)]
        await alone.begun()
        yield WaitEstimate(
            LatencyProfile(SECONDS), batcher, LARGEST, 2, 0.0, LatencyProfile({1: LONE_SECONDS})
        )
        alone.gate.set()
        others.gate.set()
        await answered(futures)


@pytest.mark.anyio
@pytest.mark.parametrize("running", [INTERACTIVE, BULK])
@pytest.mark.parametrize("new", [INTERACTIVE, BULK])
async def test_new_images_are_predicted_to_wait_for_a_lone_run(
    running: Priority, new: Priority
) -> None:
    """Its rest and a run with one thread follow each other; it is counted once."""
    counted = running == INTERACTIVE or new == BULK  # as `ImageCount.ahead_of` does
    async with lone_run_in_progress(running) as wait:
        for others, images, expected in ((0, 1, 10_000), (0, 8, 40_000), (8, 1, 50_000)):
            assert wait.seconds(others + counted, images, new) == pytest.approx(
                LONE_SECONDS + expected, abs=TOLERANCE_SECONDS
            )


MEASURED = Measurement(
    precision="fp32",
    note=None,
    left_out={},
    milliseconds={},
    seconds={1: 0.01, 8: 0.08},
    warm_up_seconds=1,
    lone_seconds=0.005,
)
OPTIONS = EngineOptions(
    SessionOptions(), lone_threads=THREADS, instances=2, max_batch_size=8, precision="fp32"
)
IMAGES = [np.full((SIZE, SIZE, 3), colour, np.uint8) for colour in COLOURS.values()]


@pytest.fixture
def versions(store: ModelStore) -> Iterator[dict[float | None, LoadedVersion]]:
    """A version whose lone run is faster, and one whose lone run is not, by `lone_seconds`."""
    publish(store)
    with ExitStack() as stack:
        loaded = {}
        for seconds in (MEASURED.lone_seconds, None):
            measured = MEASURED.model_copy(update={"lone_seconds": seconds})
            loaded[seconds] = LoadedVersion(store.open(MODEL, 1), OPTIONS, measured)
            stack.callback(loaded[seconds].close)
        yield loaded


async def classify_in_turn(loaded: LoadedVersion) -> list[Classification]:
    rows = []
    for image in IMAGES:
        await until_idle(loaded.batcher)
        result = await loaded.batcher.submit(image, time.monotonic() + PATIENCE_SECONDS)
        rows.append(result.row)
    return rows


@pytest.mark.anyio
async def test_both_kinds_of_run_give_the_same_answers(
    versions: dict[float | None, LoadedVersion],
) -> None:
    """Real sessions: one client gets lone runs only if they are faster."""
    faster, slower = versions[MEASURED.lone_seconds], versions[None]
    lone_rows, rows = await classify_in_turn(faster), await classify_in_turn(slower)
    assert (faster.batcher.lone_runs, slower.batcher.lone_runs) == (len(IMAGES), 0)
    assert (faster.lone_threads, slower.lone_threads) == (THREADS, None)
    for lone_row, row in zip(lone_rows, rows, strict=True):
        np.testing.assert_allclose(lone_row.raw_scores, row.raw_scores, atol=1e-5)


@pytest.mark.anyio
async def test_under_load_runs_have_one_thread(
    versions: dict[float | None, LoadedVersion],
) -> None:
    """None of many images that arrive together is alone."""
    loaded = versions[MEASURED.lone_seconds]
    deadline = time.monotonic() + PATIENCE_SECONDS
    await until_idle(loaded.batcher)
    await loaded.batcher.submit_all(IMAGES * 8, deadline)
    assert loaded.batcher.lone_runs == 0


@pytest.mark.anyio
async def test_lone_runs_correct_their_own_profile(
    versions: dict[float | None, LoadedVersion],
) -> None:
    """The profile of runs with one thread stays as measured."""
    loaded = versions[MEASURED.lone_seconds]
    await classify_in_turn(loaded)
    assert loaded.profile.seconds(1) == MEASURED.seconds[1]
    assert loaded.wait_estimate._lone_profile.seconds(1) != MEASURED.lone_seconds


def test_short_runs_need_no_second_session(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the built-in models."""
    publish(store)
    monkeypatch.setattr(lone_run, "load_lone_session", lambda *_: pytest.fail("it was loaded"))
    with store.open(MODEL, 1) as version:
        assert load_warm_model(version, OPTIONS).lone is None


def test_second_session_is_kept_only_if_it_is_faster(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gain is measured once. Without a gain the next start measures again."""
    publish(store)
    monkeypatch.setattr(lone_run, "MIN_RUN_SECONDS", 0.0)
    options = replace(OPTIONS, measurements=MeasurementCache(tmp_path / "cache"))
    with store.open(MODEL, 1) as version:
        monkeypatch.setattr(lone_run, "MIN_SPEED_UP", math.inf)
        assert load_warm_model(version, options).lone is None
        monkeypatch.setattr(lone_run, "MIN_SPEED_UP", 0.0)
        found = load_warm_model(version, options).lone
        monkeypatch.setattr(lone_run, "MIN_SPEED_UP", math.inf)
        again = load_warm_model(version, options).lone
    assert found
    assert again
    assert found.seconds == again.seconds


def test_second_session_that_cannot_be_loaded_is_left_out(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version serves all images with one thread."""
    publish(store)
    monkeypatch.setattr(lone_run, "MIN_RUN_SECONDS", 0.0)
    monkeypatch.setattr(lone_run, "load_proven", Mock(side_effect=ModelRunError("no memory")))
    with store.open(MODEL, 1) as version:
        assert load_warm_model(version, OPTIONS).lone is None
    loaded = LoadedVersion(store.open(MODEL, 1), OPTIONS, MEASURED)
    loaded.close()
    assert loaded.lone_threads is None


@pytest.mark.parametrize(
    ("settings", "cpus", "workers", "lone_threads"),
    [
        ({}, 4, 1, 4),
        ({"mode": "auto"}, 4, 1, 4),
        ({"instances": 1}, 4, 1, 4),
        ({}, 4, 2, 2),
        ({}, 4, 4, None),
        ({}, 1, 1, None),
        ({"mode": "throughput"}, 4, 1, None),
        ({"mode": "latency"}, 4, 1, None),
        ({"intra_op_num_threads": 1}, 4, 1, None),
        ({"models": {MODEL: {"mode": "throughput"}}}, 4, 1, None),
        ({"mode": "throughput", "models": {MODEL: {"mode": "auto"}}}, 4, 1, 4),
    ],
)
def test_automatic_mode_uses_the_cpus_of_its_worker(
    settings: dict[str, object], cpus: int, workers: int, lone_threads: int | None
) -> None:
    """Lone images get all CPUs, unless there is one or the user has set the threads of a run."""
    options = engine_options(Settings(**settings), MODEL, cpus, workers=workers)
    assert options.lone_threads == lone_threads


def test_gpu_has_no_lone_runs() -> None:
    """Threads of the CPU do not compute there."""
    assert engine_options(Settings(), MODEL, 4, (CUDA,)).lone_threads is None


def test_versions_of_a_registry_know_each_other(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone image is alone among all versions; one that is closed is forgotten."""
    publish(store)
    registry = Registry(store, lambda _: OPTIONS)
    monkeypatch.setattr(Batcher, "is_idle", False)
    with batching(read_numbers) as other:
        assert registry.batchers.others_idle(other)
        loaded = load_version(registry, MODEL, 1)
        assert isinstance(loaded, LoadedVersion)
        assert not registry.batchers.others_idle(other)
        loaded.close()
        assert registry.batchers.others_idle(other)
