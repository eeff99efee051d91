"""The order in which images are decoded, which are rejected, and how processes are replaced."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from asgi_application import until
from colour_model import PREPROCESSING, plain
from hostile_images import ALLOCATES, CRASHES, LOOPS, hostile
from server_process import PATIENCE_SECONDS

from model_store.errors import (
    ImageCorruptError,
    ImageError,
    ImageTooExpensiveError,
    ImageTruncatedError,
    TooManyPixelsError,
)
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels
from service.engine.priority import BULK, INTERACTIVE, Priority
from service.errors import DeadlineExceededError, OverloadedError
from service.prediction import decode_pool as decode_pool_module
from service.prediction.decode_pool import LARGE_PIXELS, DecodePool
from service.prediction.decoder import Decoder, DecoderLimits, decode_memory

pytestmark = pytest.mark.anyio
HUGE_IMAGE = plain("red", size=(2400, 1200))
LARGE_IMAGE = plain("red", size=(2000, 1100))
MIDDLE_IMAGE, BLUE_IMAGE = (plain(colour, size=(400, 400)) for colour in ("red", "blue"))
LIMITS = DecoderLimits(max_pixels=10**7, cpu_seconds=2)


class HeldDecoders:
    """Holds the large images of all processes at a gate; records the order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.images: list[bytes] = []
        decode = Decoder.decode

        async def held_decode(
            decoder: Decoder, image: bytes, spec: Preprocessing, max_cost: float, memory: int
        ) -> Pixels:
            if image in (HUGE_IMAGE, LARGE_IMAGE) and max_cost > 1e9:
                self.images.append(image)
                self.entered.set()
                await self.gate.wait()
            return await decode(decoder, image, spec, max_cost, memory)

        monkeypatch.setattr(Decoder, "decode", held_decode)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldDecoders:
    return HeldDecoders(monkeypatch)


@pytest.fixture
async def decoders() -> AsyncIterator[DecodePool]:
    """Two processes at most, and one more for large images."""
    decoders = DecodePool(2, LIMITS)
    yield decoders
    await decoders.close()


def deadline(seconds: float = PATIENCE_SECONDS) -> float:
    return time.monotonic() + seconds


async def decode_pixels(decoders: DecodePool, image: bytes, priority: Priority) -> Pixels:
    return (await decoders.decode(image, PREPROCESSING, deadline(), priority)).pixels


def decoding(
    decoders: DecodePool, image: bytes, priority: Priority = INTERACTIVE
) -> asyncio.Task[Pixels]:
    return asyncio.create_task(decode_pixels(decoders, image, priority))


async def wait_for_large(decoders: DecodePool, count: int) -> None:
    """Wait until `count` large images are running or waiting."""
    large = decoders._large_workers
    await until(lambda: large._running + len(large._semaphore._waiters) >= count)


async def test_smaller_large_images_are_decoded_first(
    decoders: DecodePool, held: HeldDecoders
) -> None:
    """A smaller image overtakes larger ones that wait; bulk is last."""
    tasks = []
    for image, priority in (
        (HUGE_IMAGE, INTERACTIVE),
        (LARGE_IMAGE, BULK),
        (HUGE_IMAGE, INTERACTIVE),
        (HUGE_IMAGE, INTERACTIVE),
        (LARGE_IMAGE, INTERACTIVE),
    ):
        tasks.append(decoding(decoders, image, priority))
        await wait_for_large(decoders, len(tasks))
    held.gate.set()
    await asyncio.gather(*tasks)
    assert held.images == [HUGE_IMAGE, LARGE_IMAGE, HUGE_IMAGE, HUGE_IMAGE, LARGE_IMAGE]


async def test_huge_bulk_images_do_not_delay_other_bulk_images(
    decoders: DecodePool, held: HeldDecoders
) -> None:
    """An image of usual size has processes of its own."""
    huge = [decoding(decoders, HUGE_IMAGE, BULK) for _ in range(4)]
    await wait_for_large(decoders, 4)
    pixels = await decoding(decoders, BLUE_IMAGE, BULK)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    held.gate.set()
    await asyncio.gather(*huge)


async def test_image_that_would_be_decoded_too_late_is_rejected_at_once(
    decoders: DecodePool, held: HeldDecoders
) -> None:
    """The prediction uses the mean decode time; an idle pool accepts whatever is predicted."""
    first = [decoding(decoders, HUGE_IMAGE) for _ in range(2)]
    await wait_for_large(decoders, 2)
    decoders._large_workers._mean_seconds = 1000.0
    with pytest.raises(OverloadedError) as caught:
        await decoders.decode(HUGE_IMAGE, PREPROCESSING, deadline(1500))
    # Two images of 1,000 s are ahead, and 1,500 s remain.
    assert 500 < int(caught.value.headers["Retry-After"]) <= 501 + PATIENCE_SECONDS
    held.gate.set()
    await asyncio.gather(*first)


async def test_pool_of_one_process_has_another_one_for_large_images() -> None:
    """Or they would wait forever."""
    decoders = DecodePool(1, LIMITS)
    assert (await asyncio.wait_for(decoding(decoders, HUGE_IMAGE), PATIENCE_SECONDS)).any()
    await decoders.close()


async def test_wait_is_shared_by_the_processes(held: HeldDecoders) -> None:
    """Half of the processes decode large images, and each waiting image needs one of them."""
    decoders = DecodePool(5, LIMITS)
    large = decoders._large_workers
    large._mean_seconds = 10.0
    tasks = [decoding(decoders, HUGE_IMAGE) for _ in range(3)]
    await wait_for_large(decoders, 3)
    assert (large._running, len(large._semaphore._waiters)) == (2, 1)
    assert large.wait_seconds(decode_pool_module.BULK_COST) == 3 * 10.0 / 2
    assert large.wait_seconds(0.0) == 2 * 10.0 / 2  # the waiting image costs more
    held.gate.set()
    await asyncio.gather(*tasks)
    await decoders.close()


async def test_wait_is_predicted_by_the_mean_of_the_last_decodes(decoders: DecodePool) -> None:
    """Each decode counts for a tenth."""
    workers, before = decoders._workers, time.monotonic()
    workers._mean_seconds = 1000.0
    await decoding(decoders, MIDDLE_IMAGE)
    elapsed = time.monotonic() - before
    assert 900 < workers._mean_seconds <= 900 + elapsed
    assert decoders.wait_seconds() == 0


async def test_images_share_the_memory(held: HeldDecoders) -> None:
    """Two large images that do not fit at once are decoded one after the other; small ones pass."""
    memory = decode_memory(2400 * 1200, len(HUGE_IMAGE)) + decode_memory(LARGE_PIXELS, 10**5)
    decoders = DecodePool(4, LIMITS, memory)
    first = decoding(decoders, HUGE_IMAGE)
    await held.entered.wait()
    second = decoding(decoders, HUGE_IMAGE)
    await until(lambda: len(decoders._large_workers._memory._waiters) == 1)
    assert (await decoding(decoders, BLUE_IMAGE)).any()
    assert held.images == [HUGE_IMAGE]
    held.gate.set()
    await asyncio.gather(first, second)
    assert decoders._large_workers._memory._free == memory
    await decoders.close()


async def test_image_that_never_fits_into_the_memory_is_rejected() -> None:
    """By its pixels, or by its bytes; both with 413 `too_many_pixels`."""
    memory = decode_memory(LARGE_PIXELS, 10**6)
    decoders = DecodePool(2, LIMITS, memory)
    for image in (HUGE_IMAGE, MIDDLE_IMAGE + bytes(2 * 10**6)):
        with pytest.raises(TooManyPixelsError):
            await decoding(decoders, image)
    assert (await decoding(decoders, MIDDLE_IMAGE)).any()
    await decoders.close()


async def test_image_whose_deadline_has_passed_is_not_decoded(decoders: DecodePool) -> None:
    with pytest.raises(DeadlineExceededError):
        await decoders.decode(MIDDLE_IMAGE, PREPROCESSING, deadline(-1))


async def test_cancelled_waiter_releases_its_place(
    decoders: DecodePool, held: HeldDecoders
) -> None:
    """Whether its place was granted already or not."""
    tasks = [decoding(decoders, HUGE_IMAGE) for _ in range(4)]
    await wait_for_large(decoders, 4)
    tasks[2].cancel()
    await asyncio.sleep(0)
    held.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results].count(asyncio.CancelledError) == 1
    assert decoders._large_workers.wait_seconds(decode_pool_module.BULK_COST) == 0
    await asyncio.wait_for(decoding(decoders, HUGE_IMAGE), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (LOOPS, ImageTooExpensiveError),
        (ALLOCATES, ImageTooExpensiveError),
        (CRASHES, ImageCorruptError),
    ],
    ids=["loops", "allocates", "crashes"],
)
@pytest.mark.usefixtures("hostile_codec")
async def test_hostile_image_fails_alone(
    decoders: DecodePool, size: tuple[int, int], error: type[ImageError]
) -> None:
    """The images beside it and after it are decoded, and its place is free again."""
    tasks = [decoding(decoders, hostile(size))]
    tasks += [decoding(decoders, BLUE_IMAGE) for _ in range(5)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert type(results[0]) is error
    assert all(result[0, 0].tolist() == [0, 0, 255] for result in results[1:])
    assert decoders._workers._running == 0
    assert decoders._workers._semaphore._free == 2


@pytest.mark.usefixtures("hostile_codec")
async def test_abandoned_decode_is_killed_and_frees_its_place() -> None:
    """Its place stays taken until its process is dead."""
    limits = DecoderLimits(LIMITS.max_pixels, cpu_seconds=1000)
    decoders = DecodePool(1, limits)
    task = decoding(decoders, hostile(LOOPS))
    await until(lambda: len(decoders._workers._decoders) == 1)
    (process,) = decoders._workers._decoders
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert decoders._workers._running == 1
    assert (await decoding(decoders, BLUE_IMAGE)).any()
    assert process.ended
    await decoders.close()


async def test_abandoned_decode_that_ends_in_time_keeps_its_process(
    decoders: DecodePool, held: HeldDecoders
) -> None:
    """A client that disconnects costs no process."""
    task = decoding(decoders, HUGE_IMAGE)
    await held.entered.wait()
    (process,) = decoders._large_workers._decoders
    task.cancel()
    held.gate.set()
    await asyncio.wait([task])
    assert (await decoding(decoders, HUGE_IMAGE)).any()
    assert decoders._large_workers._decoders == {process}


@pytest.mark.usefixtures("hostile_codec")
async def test_closing_kills_a_decode_that_never_ends() -> None:
    """Its caller is cancelled."""
    limits = DecoderLimits(LIMITS.max_pixels, cpu_seconds=1000)
    decoders = DecodePool(1, limits)
    task = decoding(decoders, hostile(LOOPS))
    await until(lambda: len(decoders._workers._decoders) == 1)
    (process,) = decoders._workers._decoders
    await decoders.close()
    assert process.ended
    await asyncio.wait([task])
    assert task.cancelled()


async def test_process_that_was_killed_while_idle_is_replaced(decoders: DecodePool) -> None:
    """The next image is decoded by another."""
    assert (await decoding(decoders, MIDDLE_IMAGE)).any()
    (process,) = decoders._workers._decoders
    process._process.kill()
    await process._process.wait()
    assert (await decoding(decoders, MIDDLE_IMAGE)).any()
    assert process not in decoders._workers._decoders


async def test_image_is_rejected_if_no_process_starts(
    decoders: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 429, so that the client tries again; the place is free again."""
    monkeypatch.setattr("sys.executable", "/no/python")
    with pytest.raises(OverloadedError):
        await decoding(decoders, MIDDLE_IMAGE)
    monkeypatch.undo()
    assert (await decoding(decoders, MIDDLE_IMAGE)).any()


async def test_process_is_started_ahead_of_the_first_image(
    decoders: DecodePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool_module, "START_DELAY_SECONDS", 0.0)
    decoders.start_soon()
    await until(lambda: len(decoders._workers._idle) == 1)


async def test_errors_of_images_keep_the_process(decoders: DecodePool) -> None:
    for _ in range(3):
        with pytest.raises(ImageTruncatedError):
            await decoding(decoders, plain("red", "JPEG", (300, 300))[:-100])
    assert len(decoders._workers._decoders) == 1
