"""What the pipeline records about a request, and which waits count for its admission."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from colour_model import MODEL, plain, publish
from pictures import encoded, picture

from model_store.errors import ImageTruncatedError
from service.engine.priority import INTERACTIVE
from service.engine.queued_image import ImageResult
from service.errors import BadRequestError, DeadlineExceededError, OverloadedError
from service.prediction.admission import UploadBudget
from service.prediction.decode_pool import DecodePool
from service.prediction.decoder import DecoderLimits
from service.prediction.pipeline import PredictionPipeline
from service.prediction.request import EncodedImage, ImageOutcome, PredictRequest, RequestRecord
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

pytestmark = pytest.mark.anyio
SMALL, LARGE = plain("red"), encoded(picture(1, 200, 200))
ERROR = BadRequestError("no image")


@pytest.fixture
async def pool() -> AsyncIterator[DecodePool]:
    pool = DecodePool(1, DecoderLimits(max_pixels=10**6))
    yield pool
    await pool.close()


@pytest.fixture
def pipeline(registry: Registry, pool: DecodePool) -> PredictionPipeline:
    publish(registry.store)
    reconcile(registry)
    return PredictionPipeline(registry, pool, UploadBudget(10**6), decodes_per_request=2)


async def predict(
    pipeline: PredictionPipeline, record: RequestRecord, *images: EncodedImage
) -> list[ImageOutcome]:
    with pipeline.lease(MODEL, None) as loaded:
        disconnected = asyncio.get_running_loop().create_future()
        return await pipeline.predict(loaded, PredictRequest(images), record, disconnected)


@pytest.mark.parametrize("image", [SMALL, LARGE], ids=["small", "large"])
async def test_record_has_the_times_of_an_image(pipeline: PredictionPipeline, image: bytes) -> None:
    """They are parts of the time that the request took."""
    record = RequestRecord()
    (outcome,) = await predict(pipeline, record, image)
    elapsed = time.monotonic() - record.started
    assert isinstance(outcome.result, ImageResult)
    assert record.seconds == {
        "decode": outcome.decode_seconds,
        "queue": outcome.result.queue_seconds,
        "inference": outcome.result.inference_seconds,
    }
    assert min(record.seconds.values()) > 0
    assert sum(record.seconds.values()) <= elapsed
    assert (record.images, record.failed_images) == (1, 0)


async def test_record_of_several_images_has_the_longest_times(
    pipeline: PredictionPipeline,
) -> None:
    """Images that fail are counted, and the time of their decode is, too."""
    record = RequestRecord()
    outcomes = await predict(pipeline, record, SMALL, ERROR, LARGE[:-400], LARGE)
    elapsed = time.monotonic() - record.started
    results = [outcome.result for outcome in outcomes]
    assert [isinstance(result, ImageResult) for result in results] == [True, False, False, True]
    assert (record.images, record.failed_images) == (4, 2)
    decodes = [outcome.decode_seconds for outcome in outcomes]
    assert decodes[1] == 0
    assert min(decodes[0], decodes[2], decodes[3]) > 0
    assert record.seconds["decode"] == max(decodes) <= elapsed
    answered = [result for result in results if isinstance(result, ImageResult)]
    assert record.seconds["queue"] == max(result.queue_seconds for result in answered)
    assert record.seconds["inference"] == max(result.inference_seconds for result in answered)


async def test_error_that_takes_the_place_of_the_only_image_is_that_of_the_request(
    pipeline: PredictionPipeline,
) -> None:
    """It is not decoded."""
    with pytest.raises(BadRequestError) as caught:
        await predict(pipeline, RequestRecord(), ERROR)
    assert caught.value is ERROR


async def test_record_of_an_image_that_a_process_cannot_decode_has_its_time(
    pipeline: PredictionPipeline,
) -> None:
    """Nothing was run."""
    record = RequestRecord()
    with pytest.raises(ImageTruncatedError):
        await predict(pipeline, record, LARGE[:-400])
    elapsed = time.monotonic() - record.started
    assert record.images == 1
    assert list(record.seconds) == ["decode"]
    assert 0 < record.seconds["decode"] <= elapsed


@pytest.mark.parametrize(
    ("busy", "error"), [(0, DeadlineExceededError), (1, OverloadedError)], ids=["idle", "busy"]
)
async def test_deadline_counts_from_the_start_of_the_request(
    pipeline: PredictionPipeline, busy: int, error: type[Exception]
) -> None:
    """The time that the body took is part of it; the image is not decoded."""
    loaded = pipeline.registry.find(MODEL)
    record = RequestRecord(started=time.monotonic() - loaded.options.deadline_seconds)
    loaded.admitted.add(busy, INTERACTIVE)
    with pytest.raises(error):
        await predict(pipeline, record, SMALL)
    loaded.admitted.add(-busy, INTERACTIVE)
    assert record.seconds == {}


async def test_only_images_that_need_a_process_wait_for_one(
    pipeline: PredictionPipeline, pool: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With busy processes, small images are admitted, and requests with a larger one are not."""
    monkeypatch.setattr(pool, "wait_seconds", lambda: 10_000.0)
    with pipeline.lease(MODEL, None) as loaded:
        loaded.admitted.add(1, INTERACTIVE)  # an idle version admits every image
        for images in ([SMALL], [SMALL, ERROR, b"nothing"]):
            await predict(pipeline, RequestRecord(), *images)
        for images in ([LARGE], [SMALL, LARGE], [LARGE, ERROR]):
            with pytest.raises(OverloadedError) as caught:
                await predict(pipeline, RequestRecord(), *images)
            assert int(caught.value.headers["Retry-After"]) > 9000
        loaded.admitted.add(-1, INTERACTIVE)
