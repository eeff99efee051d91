"""The pools for decoding: who is next, who is refused, and who does not wait for whom."""

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
from service.prediction import decode_pool as decoding
from service.prediction.decode_pool import DecodePool

pytestmark = pytest.mark.anyio
HUGE, LARGE, MIDDLE = (2400, 1200), (2000, 1100), (400, 400)


class Held:
    """Decoding that waits for its gate with every image of more than two million pixels, and says in which order they came."""

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
    monkeypatch.setattr(decoding, "to_pixels", held)
    return held


@pytest.fixture
def decoders() -> Iterator[DecodePool]:
    """Two workers, of which one is for large images."""
    decoders = DecodePool(2, 10**8)
    yield decoders
    decoders.close()


def deadline(seconds: float = PATIENCE_SECONDS) -> float:
    return time.monotonic() + seconds


async def wait_for_large(decoders: DecodePool, count: int) -> None:
    """Until so many large images run or wait."""
    await until(lambda: decoders._large._running + len(decoders._large._turns._waiting) >= count)


async def test_one_client_s_huge_images_hold_up_no_smaller_one(
    decoders: DecodePool, held: Held
) -> None:
    """A photograph that comes behind many larger images is decoded as soon as the one at work is done; bulk is last."""
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


async def test_bulk_that_is_huge_holds_up_no_other_bulk(decoders: DecodePool, held: Held) -> None:
    """However many huge ones of it wait, an image of usual size has the other pool."""
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
async def test_image_whose_turn_will_come_too_late_is_refused_at_once(
    decoders: DecodePool, held: Held, size: tuple[int, int]
) -> None:
    """By how long decoding took before; one that finds no other is tried in any case."""
    pool = decoders._large if size == HUGE else decoders._pool
    pool._seconds = 10.0
    first = [
        asyncio.create_task(decoders.decode(plain("red", size=size), PREPROCESSING, deadline(1e6)))
        for _ in range(2)
    ]
    assert await asyncio.to_thread(held.entered.wait, PATIENCE_SECONDS)
    await until(lambda: pool._running > 0)
    with pytest.raises(OverloadedError, match="to be decoded, and") as caught:
        await decoders.decode(plain("red", size=size), PREPROCESSING, deadline(5))
    assert int(caught.value.headers["Retry-After"]) >= 4
    held.gate.set()
    await asyncio.gather(*first)


async def test_who_leaves_while_waiting_leaves_no_place_taken(
    decoders: DecodePool, held: Held
) -> None:
    """Whether its turn had come or not."""
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
    assert decoders._large.wait_seconds(decoding.BULK_COST) == 0
    await asyncio.wait_for(
        decoders.decode(plain("red", size=HUGE), PREPROCESSING, deadline()), PATIENCE_SECONDS
    )
