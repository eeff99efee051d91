"""The order in which images are decoded, and which of them are rejected."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from asgi_application import until
from colour_model import PREPROCESSING, plain
from PIL import Image
from server_process import PATIENCE_SECONDS

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, to_pixels
from service.engine.priority import BULK
from service.errors import OverloadedError
from service.prediction import decode_pool as decode_pool_module
from service.prediction.decode_pool import DecodePool

pytestmark = pytest.mark.anyio
HUGE, LARGE, MIDDLE = (2400, 1200), (2000, 1100), (400, 400)


class Held:
    """Decodes, but holds each image of at least `LARGE` width at a gate; records the order."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, image: Image.Image, spec: Preprocessing) -> Pixels:
        self.sizes.append(image.size)
        self.entered.set()
        assert image.width < LARGE[0] or self.gate.wait(PATIENCE_SECONDS)
        return to_pixels(image, spec)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    held = Held()
    monkeypatch.setattr(decode_pool_module, "to_pixels", held)
    return held


@pytest.fixture
def decoders() -> Iterator[DecodePool]:
    """Two workers, and one more for large images."""
    decoders = DecodePool(2, 10**8)
    yield decoders
    decoders.close()


def deadline(seconds: float = PATIENCE_SECONDS) -> float:
    return time.monotonic() + seconds


async def wait_for_large(decoders: DecodePool, count: int) -> None:
    """Wait until `count` large images are running or waiting."""
    await until(
        lambda: (
            decoders._large_workers._running + len(decoders._large_workers._semaphore._waiters)
            >= count
        )
    )


async def test_smaller_large_images_are_decoded_first(decoders: DecodePool, held: Held) -> None:
    """A smaller image overtakes larger ones that wait; bulk is last."""
    tasks = []
    for place, (size, priority) in enumerate(
        [(HUGE, 1), (LARGE, BULK), (HUGE, 1), (HUGE, 1), (LARGE, 1)]
    ):
        tasks.append(
            asyncio.create_task(
                decoders.decode(plain("red", size=size), PREPROCESSING, deadline(), priority)
            )
        )  # type: ignore[arg-type]
        await wait_for_large(decoders, place + 1)
    held.gate.set()
    await asyncio.gather(*tasks)
    assert held.sizes == [HUGE, LARGE, HUGE, HUGE, LARGE]


async def test_huge_bulk_images_do_not_delay_other_bulk_images(
    decoders: DecodePool, held: Held
) -> None:
    """An image of usual size has workers of its own."""
    huge = [
        asyncio.create_task(
            decoders.decode(plain("red", size=HUGE), PREPROCESSING, deadline(), BULK)
        )
        for _ in range(4)
    ]
    await wait_for_large(decoders, 4)
    pixels = await decoders.decode(plain("blue", size=MIDDLE), PREPROCESSING, deadline(), BULK)
    assert pixels[0, 0].tolist() == [0, 0, 255]
    held.gate.set()
    await asyncio.gather(*huge)


@pytest.mark.parametrize("size", [HUGE, (2000, 1048)], ids=["large", "usual"])
async def test_image_that_would_be_decoded_too_late_is_rejected_at_once(
    decoders: DecodePool, held: Held, size: tuple[int, int]
) -> None:
    """The prediction uses the mean decode time; an idle pool accepts whatever is predicted."""
    pool = decoders._large_workers if size == HUGE else decoders._workers
    pool._mean_seconds = 10.0
    first = [
        asyncio.create_task(decoders.decode(plain("red", size=size), PREPROCESSING, deadline(1e6)))
        for _ in range(2)
    ]
    assert await asyncio.to_thread(held.entered.wait, PATIENCE_SECONDS)
    await until(lambda: pool._running > 0)
    with pytest.raises(OverloadedError) as caught:
        await decoders.decode(plain("red", size=size), PREPROCESSING, deadline(5))
    assert int(caught.value.headers["Retry-After"]) >= 4
    held.gate.set()
    await asyncio.gather(*first)


async def test_cancelled_waiter_releases_its_place(decoders: DecodePool, held: Held) -> None:
    """Whether its place was granted already or not."""
    tasks = [
        asyncio.create_task(decoders.decode(plain("red", size=HUGE), PREPROCESSING, deadline()))
        for _ in range(4)
    ]
    await wait_for_large(decoders, 4)
    tasks[2].cancel()
    await asyncio.sleep(0)
    held.gate.set()
    assert [type(found) for found in await asyncio.gather(*tasks, return_exceptions=True)].count(
        asyncio.CancelledError
    ) == 1
    assert decoders._large_workers.wait_seconds(decode_pool_module.BULK_COST) == 0
    await asyncio.wait_for(
        decoders.decode(plain("red", size=HUGE), PREPROCESSING, deadline()), PATIENCE_SECONDS
    )
