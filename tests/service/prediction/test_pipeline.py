"""Requests under load, late requests and disconnects, with the model held at a gate."""

import asyncio
import base64
import io
import json
import math
from pathlib import Path

import httpx
import numpy as np
import pytest
from asgi_application import Application, RawClient, started, until
from colour_model import COLOURS, SIZE, WEIGHTS, encode, labels, make_store, plain, publish
from http_problems import check_problem
from operating import publish_other
from PIL import Image
from server_process import PATIENCE_SECONDS

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels
from model_store.store import ModelStore
from service.errors import ClientDisconnectedError, TooLargeError
from service.prediction.decoder import Decoder
from service.prediction.request import PredictRequest, RequestRecord
from service.settings import MEBIBYTE

pytestmark = pytest.mark.anyio


def colours(*names: str) -> dict[str, object]:
    return {"images": [{"b64": base64.b64encode(plain(name)).decode()} for name in names]}


def posting_to(application: Application, path: str, *names: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(
        application.client.post(f"/v1/models/{path}/predict", json=colours(*names))
    )


def posting(application: Application, *names: str) -> asyncio.Task[httpx.Response]:
    return asyncio.create_task(application.client.post("/v1/predict", json=colours(*names)))


async def test_full_queue_refuses_more_and_serves_again(colour_store: ModelStore) -> None:
    """It gets 429 with Retry-After at once; accepted requests are answered."""
    async with started(colour_store.root, max_queue_size=3) as application:
        model = application.hold_model()
        accepted = posting(application, "red", "green", "blue")
        await model.begun()
        refused = await application.client.post("/v1/predict", content=plain("red"))
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await application.client.get("/health/ready")).status_code == 200, (
            "overload makes no replica unready"
        )
        model.gate.set()
        assert labels((await accepted).json()["results"]) == ["red", "green", "blue"]
        assert (
            await application.client.post("/v1/predict", json=colours("red", "red", "red"))
        ).status_code == 200


async def test_versions_of_a_model_share_its_queue(store: ModelStore) -> None:
    """Also with a version that is loaded later; other models have their own queue."""
    publish(store)
    publish(store)
    publish(store, "other")
    async with started(
        store.root, max_queue_size=3, version_policy="latest:2", store_poll_seconds=0
    ) as application:
        model = application.hold_model()
        under_way = posting_to(application, "colours/versions/2", "red", "green")
        await model.begun()
        publish(store)
        await application.reconcile()
        for path, names, status in (
            ("colours/versions/1", ["red"], 404),
            ("colours/versions/3", ["red", "red"], 429),
            ("colours/versions/3", ["red"], 200),
            ("colours", ["red", "red"], 429),
            ("other", ["red"] * 3, 200),
        ):
            assert (await posting_to(application, path, *names)).status_code == status, path
        model.gate.set()
        assert (await under_way).status_code == 200
        assert (await posting_to(application, "colours", *["red"] * 3)).status_code == 200


async def test_full_queue_rejects_before_the_body_is_read(colour_store: ModelStore) -> None:
    """A request to a full queue is rejected before the first byte of its body is requested."""
    async with started(colour_store.root, max_queue_size=1) as application:
        model = application.hold_model()
        accepted = posting(application, "red")
        await model.begun()
        refused = await RawClient(headers={"content-length": "1000"}).request(application.app)
        assert refused.status == 429
        assert not refused.asked.is_set()
        model.gate.set()
        assert (await accepted).status_code == 200


async def test_request_larger_than_the_queue_is_too_large(colour_store: ModelStore) -> None:
    """A request that could never be admitted gets 413 instead of 429."""
    async with started(colour_store.root, max_queue_size=2) as application:
        response = await application.client.post("/v1/predict", json=colours("red", "red", "red"))
        assert (response.status_code, response.json()["code"]) == (413, "too_many_images")


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_bodies_share_the_upload_budget(colour_store: ModelStore, announced: bool) -> None:
    """A body is rejected while another takes the whole budget."""
    size = MEBIBYTE  # the smallest budget
    headers = {"content-length": f"{size}"} if announced else {"transfer-encoding": "chunked"}
    async with started(
        colour_store.root, max_upload_bytes=size, max_body_bytes=size
    ) as application:
        first, second = RawClient(headers=headers), RawClient(headers=headers)
        receiving = asyncio.create_task(first.request(application.app))
        first.send_body(b"x" * size, more=True)
        await until(first.messages.empty)
        second.send_body(b"x" * size)
        await asyncio.wait_for(second.request(application.app), PATIENCE_SECONDS)
        assert second.status == 429
        first.leave()
        await receiving


async def test_late_image_gets_504_and_is_never_run(colour_store: ModelStore) -> None:
    """An image whose deadline passes while it waits for a batch gets 504 and is in no batch."""
    async with started(colour_store.root, deadline_seconds=0.2) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        late = posting(application, "blue")
        response = await late
        model.gate.set()
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        await first
    assert model.sizes == [1]


async def test_deadline_is_kept_while_the_model_is_busy(colour_store: ModelStore) -> None:
    """The 504 is sent when the deadline passes, although the model never finishes."""
    async with started(colour_store.root, deadline_seconds=0.2) as application:
        model = application.hold_model()
        try:
            first = posting(application, "red")
            await model.begun()
            response = await asyncio.wait_for(
                application.client.post("/v1/predict", content=plain("blue")),
                PATIENCE_SECONDS,
            )
            assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        finally:
            model.gate.set()
            await first


async def test_images_of_a_disconnected_client_are_never_run(colour_store: ModelStore) -> None:
    """A client that disconnects releases the places of its images, and they are in no batch."""
    async with started(colour_store.root, max_queue_size=2) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        client = RawClient()
        client.send_body(plain("blue"))
        leaving = asyncio.create_task(client.request(application.app))
        queue = application.served().batcher._queue
        await until(lambda: len(queue) == 1)
        client.leave()
        await leaving
        follower = posting(application, "green")  # takes the place of the client that left
        await until(lambda: len(queue) == 2)
        model.gate.set()
        assert labels((await first).json()["results"]) == ["red"]
        assert labels((await follower).json()["results"]) == ["green"]
    assert model.sizes == [1, 1]
    assert client.status == 499


async def test_client_that_disconnects_in_its_body_releases_its_bytes(
    colour_store: ModelStore,
) -> None:
    """The upload budget is free again after a client disconnects in the middle of its body."""
    async with started(colour_store.root, max_upload_bytes=1000) as application:
        client = RawClient(headers={"content-length": "1000"})
        client.send_body(b"x" * 10, more=True)
        client.leave()
        await client.request(application.app)
        follower = RawClient(headers={"content-length": "1000"})
        follower.send_body(plain("red"))
        assert (await follower.request(application.app)).status == 200


async def test_failing_run_is_a_500_for_its_batch_only(colour_store: ModelStore) -> None:
    """Its images get inference_failed without the reason; the next request is answered."""
    async with started(colour_store.root) as application:
        batcher = application.served().batcher
        run = batcher._run
        batcher._run = lambda _: 1 / 0
        failed = await application.client.post("/v1/predict", content=plain("red"))
        assert (failed.status_code, failed.json()["code"]) == (500, "inference_failed")
        assert "division" not in failed.text
        batcher._run = run
        assert (
            await application.client.post("/v1/predict", content=plain("red"))
        ).status_code == 200


class HeldDecoders:
    """Holds images in decoder processes, all or only large ones, until a gate is opened."""

    def __init__(self, patch: pytest.MonkeyPatch, *, only_large: bool = False) -> None:
        self.gate = asyncio.Event()
        self.entered = asyncio.Event()
        self.sizes: list[tuple[int, int]] = []
        decode = Decoder.decode

        async def held_decode(
            decoder: Decoder, image: bytes, spec: Preprocessing, max_cost: float, memory_bytes: int
        ) -> Pixels:
            width, height = Image.open(io.BytesIO(image)).size
            self.sizes.append((width, height))
            self.entered.set()
            if not only_large or math.isinf(max_cost):
                await self.gate.wait()
            return await decode(decoder, image, spec, max_cost, memory_bytes)

        patch.setattr(Decoder, "decode", held_decode)


async def test_large_images_are_decoded_in_a_process(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a large image is held in a process, a small one is answered."""
    held = HeldDecoders(monkeypatch)
    async with started(colour_store.root) as application:
        large = asyncio.create_task(
            application.client.post("/v1/predict", content=plain("blue", size=(1100, 400)))
        )
        await held.entered.wait()
        small = await application.client.post("/v1/predict", content=plain("red"))
        held.gate.set()
        assert labels(small.json()["results"] + (await large).json()["results"]) == ["red", "blue"]


@pytest.mark.parametrize("why", ["left", "late"])
async def test_images_that_nobody_waits_for_are_never_decoded(
    colour_store: ModelStore, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their client left, or their deadline passed, while they waited for a process."""
    held = HeldDecoders(monkeypatch)
    async with started(colour_store.root, decode_workers=1) as application:
        model = application.hold_model()
        model.gate.set()
        first = asyncio.create_task(
            application.client.post("/v1/predict", content=plain("red", size=(400, 400)))
        )
        await held.entered.wait()
        gone = RawClient(query=b"timeout_ms=100" if why == "late" else b"")
        gone.send_body(plain("blue", size=(500, 500)))
        going = asyncio.create_task(gone.request(application.app))
        await until(gone.messages.empty)
        if why == "left":
            gone.leave()
        await going
        assert gone.status == (504 if why == "late" else 499)
        held.gate.set()
        assert labels((await first).json()["results"]) == ["red"]
    assert held.sizes == [(400, 400)]
    assert model.sizes == [1]


async def test_huge_images_do_not_delay_others(
    colour_store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While more huge images than processes are held, an image of middle size is answered."""
    async with started(colour_store.root, decode_workers=2) as application:
        body = plain("blue", size=(2000, 1100))
        held = HeldDecoders(monkeypatch, only_large=True)
        huge = [
            asyncio.create_task(application.client.post("/v1/predict", content=body))
            for _ in range(6)
        ]
        middle = await application.client.post(
            "/v1/predict", content=plain("red", size=(1100, 400))
        )
        assert labels(middle.json()["results"]) == ["red"]
        assert not any(task.done() for task in huge)
        held.gate.set()
        for task in huge:
            assert labels((await task).json()["results"]) == ["blue"]


async def test_thin_image_that_grows_in_the_resize_is_decoded_in_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 x 16,000 pixels become many when the shorter side is resized."""
    store = make_store(tmp_path / "store")
    publish(store)
    held = HeldDecoders(monkeypatch)
    held.gate.set()
    thin = io.BytesIO()
    Image.new("RGB", (1, 16_000), (255, 0, 0)).save(thin, "PNG")
    async with started(store.root) as application:
        response = await application.client.post("/v1/predict", content=thin.getvalue())
    assert labels(response.json()["results"]) == ["red"]
    assert held.sizes == [(1, 16_000)]


async def test_own_timeout_is_kept_and_capped(colour_store: ModelStore) -> None:
    """`timeout_ms` shortens the deadline of the service and never extends it."""
    async with started(colour_store.root, deadline_seconds=0.3) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        for timeout in (50, 10_000_000):
            late = await asyncio.wait_for(
                application.client.post(f"/v1/predict?timeout_ms={timeout}", content=plain("blue")),
                PATIENCE_SECONDS,
            )
            assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        model.gate.set()
        await first


async def test_request_that_would_miss_its_deadline_is_rejected_at_once(
    colour_store: ModelStore,
) -> None:
    """With runs of 1 s and one image ahead, `timeout_ms=900` gets 429 with the predicted wait."""
    async with started(colour_store.root) as application:
        application.served().wait_estimate.seconds = lambda ahead, images, _: float(ahead + images)
        model = application.hold_model()
        alone = asyncio.create_task(
            application.client.post("/v1/predict?timeout_ms=900", content=plain("red"))
        )
        await (
            model.begun()
        )  # the version was idle, so the image was admitted whatever was predicted
        refused = await application.client.post("/v1/predict?timeout_ms=900", content=plain("blue"))
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert "2,000 ms" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        model.gate.set()
        assert (await alone).status_code == 200
        assert model.sizes == [1]


async def test_running_bulk_batch_is_part_of_the_predicted_wait(colour_store: ModelStore) -> None:
    """With runs of 10 s, an interactive image waits for the bulk batch that has just begun."""
    async with started(colour_store.root) as application:
        profile = application.served().profile
        profile._seconds = [10.0] * len(profile._seconds)
        model = application.hold_model()
        bulk = asyncio.create_task(
            application.client.post("/v1/predict?priority=2", content=plain("blue"))
        )
        await model.begun()
        refused = await application.client.post(
            "/v1/predict?timeout_ms=15000", content=plain("red")
        )
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        interactive = posting(application, "red")
        await until(lambda: application.served().batcher.waiting == 1)
        model.gate.set()
        assert labels((await interactive).json()["results"]) == ["red"]
        assert (await bulk).status_code == 200


async def test_bulk_fills_the_places_that_interactive_images_leave(
    colour_store: ModelStore,
) -> None:
    """Bulk images run after interactive ones that arrived later, and fill their batch."""
    async with started(colour_store.root, max_batch_size=2) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        waiting = application.served().batcher
        bulk = asyncio.create_task(
            application.client.post("/v1/predict?priority=2", json=colours("blue", "blue", "blue"))
        )
        await until(lambda: waiting.waiting == 3)
        interactive = posting(application, "green")
        await until(lambda: waiting.waiting == 4)
        model.gate.set()
        assert labels((await interactive).json()["results"]) == ["green"]
        assert labels((await bulk).json()["results"]) == ["blue"] * 3
        await first
    assert model.sizes == [1, 2, 2]
    green, blue = (batch[0].reshape(-1, 3).mean(axis=0).argmax() for batch in model.batches[1:])
    assert (green, blue) == (1, 2)


@pytest.mark.parametrize(
    "query",
    [
        "timeout_ms=0",
        "timeout_ms=1.5",
        "timeout_ms=",
        "priority=3",
        "priority=high",
        "&".join("abcdefghijk" * 10),
    ],
)
async def test_invalid_query_parameters_are_rejected(colour_store: ModelStore, query: str) -> None:
    """Each is a 400 with the code invalid_parameter."""
    async with started(colour_store.root) as application:
        response = await application.client.post(f"/v1/predict?{query}", content=plain("red"))
        assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


async def test_request_is_answered_by_the_version_it_leased(store: ModelStore) -> None:
    """A newer version may start to serve while a body arrives."""
    publish(store)
    async with started(store.root) as application:
        body, client = plain("red"), RawClient(headers={"content-type": "image/png"})
        client.send_body(body[:10], more=True)
        request = asyncio.create_task(client.request(application.app))
        await client.asked.wait()
        publish_other(store)
        await application.reconcile()
        assert application.registry.find(None).version.number == 2
        client.send_body(body[10:])
        await request
        answer = json.loads(client.body)
        assert (answer["version"], labels(answer["results"])) == (1, ["red"])


async def test_output_that_is_not_finite_is_a_500_of_its_image(tmp_path: Path) -> None:
    """An image whose scores overflow gets invalid_model_output, and the others are answered."""
    store = make_store(tmp_path / "store")
    huge = np.full_like(WEIGHTS, 3e38)  # black is 0, and every other colour is infinite
    publish(store, weights=huge, golden_weights=huge, golden=(), proof="unproven")
    black = encode(Image.new("RGB", (16, 12)))
    async with started(store.root) as application:
        client = application.client
        check_problem(
            await client.post("/v1/predict", content=plain("white")), 500, "invalid_model_output"
        )
        images = [{"b64": base64.b64encode(data).decode()} for data in (black, plain("white"))]
        both = await client.post("/v1/predict", json={"images": images})
        assert both.status_code == 200
        first, second = both.json()["results"]
        assert "error" not in first
        assert second["error"]["code"] == "invalid_model_output"
        assert (await client.post("/v1/predict", content=black)).status_code == 200


async def predict_pixels(
    application: Application, colour: str, count: int, disconnected: asyncio.Future[None]
) -> list[str]:
    """Classify pixels without HTTP. Returns the most probable label of each image."""
    loaded = application.served()
    pixels = np.broadcast_to(np.uint8(COLOURS[colour]), (count, SIZE, SIZE, 3)).copy()
    outcomes = await application.app._pipeline.predict(
        loaded, PredictRequest(pixels), RequestRecord(), disconnected
    )
    names = loaded.version.manifest.class_names
    return [names[outcome.result.row.indices[0]] for outcome in outcomes]


async def test_pixels_are_not_decoded_and_pass_the_same_admission(colour_store: ModelStore) -> None:
    """They are classified in one batch; more than the queue holds are rejected."""
    connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with started(colour_store.root, max_queue_size=4) as application:
        model = application.hold_model()
        model.gate.set()
        assert await predict_pixels(application, "blue", 4, connected) == ["blue"] * 4
        assert model.sizes == [4]
        with pytest.raises(TooLargeError):
            await predict_pixels(application, "blue", 5, connected)
        assert application.served().admitted.images == 0


async def test_pixels_are_dropped_when_their_client_disconnects(colour_store: ModelStore) -> None:
    """Those that wait for a batch are not run, and their places are free."""
    disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with started(colour_store.root) as application:
        model = application.hold_model()
        running = posting(application, "red")
        await model.begun()
        waiting = asyncio.create_task(predict_pixels(application, "blue", 3, disconnected))
        await until(lambda: application.served().batcher.waiting == 3)
        disconnected.set_result(None)
        with pytest.raises(ClientDisconnectedError):
            await waiting
        assert application.served().admitted.images == 1
        model.gate.set()
        assert (await running).status_code == 200
        assert model.sizes == [1]
