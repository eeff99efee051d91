"""Statistics of a version's newest images, its queue and its instances."""

import time

import numpy as np
import pytest
from asgi_application import until
from batchers import answered, batching, submit
from colour_model import COLOURS, MODEL, WEIGHTS, publish
from densities import DENSITY
from gated_model import GatedModel, numbered, read_numbers
from registries import options
from server_process import PATIENCE_SECONDS

from model_store.manifest import Calibration, Outputs
from model_store.store import ModelStore
from model_store.uncertainty import energy
from service.engine.classification import Classification, classify
from service.engine.loaded_version import LoadedVersion
from service.engine.recent_images import WINDOW, RecentImages
from service.errors import DeadlineExceededError

PIXELS = np.array([*COLOURS.values(), (255, 110, 0), (10, 10, 10)], np.float32)


def test_drift_is_the_mean_of_both_distances() -> None:
    """The unit is the standard deviation of the images that the density was fitted on."""
    scores = PIXELS @ WEIGHTS
    recent = RecentImages()
    rows = classify(scores, Outputs(embedding="embedding"), Calibration(), PIXELS, DENSITY)
    recent.observe(rows)
    standardized = (DENSITY.distances(PIXELS) - DENSITY.center[:2]) / DENSITY.scale[:2]
    assert recent.mean_distance() == pytest.approx(float(standardized.mean()), rel=1e-5)
    abstains = sum(DENSITY.score(PIXELS, energy(scores))) > DENSITY.threshold
    assert recent.abstentions == int(np.sum(abstains)) > 0


def test_a_version_without_density_has_scores_and_no_drift() -> None:
    recent = RecentImages()
    assert (recent.mean_score(), recent.mean_distance(), recent.score_percentiles()) == (
        None,
        None,
        {},
    )
    scores = [round(number / 100, 6) for number in range(101)]
    recent.observe(Classification(np.array([0]), np.array([score])) for score in scores)
    assert recent.score_percentiles() == {5: 0.05, 50: 0.5, 95: 0.95}
    assert recent.mean_score() == pytest.approx(0.5)
    assert recent.mean_distance() is None


def test_only_the_newest_images_count() -> None:
    recent = RecentImages()
    for score in (0.1, 0.9):
        row = Classification(np.array([0]), np.array([score]), distance=score)
        recent.observe([row] * WINDOW)
    assert len(recent) == WINDOW
    assert (recent.mean_score(), recent.mean_distance()) == pytest.approx((0.9, 0.9))


@pytest.mark.anyio
async def test_a_version_observes_what_it_runs(store: ModelStore) -> None:
    publish(store, embedding=True, density=DENSITY)
    loaded = LoadedVersion(store.open(MODEL, 1), options(MODEL))
    try:
        assert 0 < loaded.warm_up_seconds < loaded.load_seconds
        assert len(loaded.recent) == 0, "the warm-up does not count"
        size = loaded.preprocessing.crop_height
        image = np.full((size, size, 3), 10, np.uint8)
        result = await loaded.batcher.submit(image, time.monotonic() + PATIENCE_SECONDS)
        assert len(loaded.recent) == 1
        assert loaded.recent.mean_distance() == result.row.distance
        assert loaded.recent.mean_score() == result.row.scores[0]
    finally:
        loaded.close()


@pytest.mark.anyio
async def test_the_queue_shows_its_age_its_drops_and_busy_instances() -> None:
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        assert (batcher.instances, batcher.oldest_seconds) == (1, 0)
        running = submit(batcher, 0)
        await model.begun()
        assert batcher.busy_instances == 1
        submitted = time.monotonic()
        cancelled, waiting = submit(batcher, 1, 2)
        late = batcher.submit(numbered(3), time.monotonic())
        assert 0 < batcher.oldest_seconds <= time.monotonic() - submitted
        cancelled.cancel()
        model.gate.set()
        assert await answered([*running, waiting]) == [0, 2]
        with pytest.raises(DeadlineExceededError):
            await late
        assert batcher.dropped == {"cancelled": 1, "deadline": 1}
        assert batcher.oldest_seconds == 0
        await until(lambda: not batcher.busy_instances)  # its thread sleeps


@pytest.mark.anyio
async def test_cancelled_images_of_a_long_queue_are_dropped_once() -> None:
    model = GatedModel(read_numbers)
    with batching(model) as batcher:
        running = submit(batcher, 0)
        await model.begun()
        for future in submit(batcher, *range(300)):
            future.cancel()
        waiting = submit(batcher, 1)
        model.gate.set()
        assert await answered([*running, *waiting]) == [0, 1]
        assert batcher.dropped["cancelled"] == 300
