"""The path of a request under load, late or left alone, with the model held at a gate."""

import asyncio
import base64
import io
import json
import threading
from pathlib import Path

import httpx
import pytest
from asgi_application import Application, RawClient, started, until
from colour_model import COLOURS, MODEL, labels, make_store, plain, publish
from PIL import Image
from server_process import PATIENCE_SECONDS

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, to_pixels
from model_store.store import BUILTIN_DEFAULT_MODEL, ModelStore
from service.prediction import decode_pool as decoding
from service.versions.reconciler import reconcile

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
    """With the queue full a request gets 429 with Retry-After at once, what was accepted is answered, and then there is room."""
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


async def test_queue_is_one_a_model(store: ModelStore) -> None:
    """Images of one version leave but the rest to another, also to one that came later; another model has its own."""
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
        await asyncio.to_thread(reconcile, application.registry)
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


async def test_full_queue_refuses_before_the_body_is_read(colour_store: ModelStore) -> None:
    """A request that would find no place is refused without a byte of its body being asked for."""
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
    """A request that could never fit is told so, not to come again."""
    async with started(colour_store.root, max_queue_size=2) as application:
        response = await application.client.post("/v1/predict", json=colours("red", "red", "red"))
        assert (response.status_code, response.json()["code"]) == (413, "too_many_images")


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_bodies_share_the_upload_budget(colour_store: ModelStore, announced: bool) -> None:
    """While one body of the whole budget is being sent another is refused, also where neither says how long it is."""
    headers = {"content-length": "1000"} if announced else {"transfer-encoding": "chunked"}
    async with started(
        colour_store.root, max_upload_bytes=1000, max_body_bytes=1000
    ) as application:
        first, second = RawClient(headers=headers), RawClient(headers=headers)
        receiving = asyncio.create_task(first.request(application.app))
        first.send_body(b"x" * 1000, more=True)
        await until(first.messages.empty)
        second.send_body(b"x" * 1000)
        await asyncio.wait_for(second.request(application.app), PATIENCE_SECONDS)
        assert second.status == 429
        first.leave()
        await receiving


async def test_image_that_is_late_is_answered_504_and_never_run(colour_store: ModelStore) -> None:
    """An image whose deadline passes while it waits for the model gets 504 and is not computed when its turn comes."""
    async with started(colour_store.root, deadline_seconds=0.2) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        late = posting(application, "blue")
        await asyncio.sleep(0.3)  # past the deadline, however slow this machine is
        model.gate.set()
        response = await late
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        await first
    assert model.sizes == [1]


async def test_deadline_is_kept_while_the_model_is_busy(colour_store: ModelStore) -> None:
    """The 504 comes when the deadline passes and not when the model gets round to it: here it never does."""
    async with started(colour_store.root, deadline_seconds=0.2) as application:
        model = application.hold_model()
        try:
            first = posting(application, "red")
            await model.begun()
            response = await asyncio.wait_for(
                application.client.post("/v1/predict", content=plain("blue")), 5
            )
            assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        finally:
            model.gate.set()
            await first


async def test_images_of_a_client_that_left_are_never_run(colour_store: ModelStore) -> None:
    """A client that goes away while its images wait gives up their places, and they are dropped when the batch forms."""
    async with started(colour_store.root, max_queue_size=2) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        leaver = RawClient()
        leaver.send_body(plain("blue"))
        leaving = asyncio.create_task(leaver.request(application.app))
        queue = application.served().batcher._queue
        await until(lambda: len(queue) == 1)
        leaver.leave()
        await leaving
        stayer = posting(application, "green")  # finds the place that the leaver held
        await until(lambda: len(queue) == 2)
        model.gate.set()
        assert labels((await first).json()["results"]) == ["red"]
        assert labels((await stayer).json()["results"]) == ["green"]
    assert model.sizes == [1, 1]
    assert leaver.status == 499


async def test_client_that_leaves_in_its_body_holds_nothing(colour_store: ModelStore) -> None:
    """A client that goes away half-way through its body leaves the upload budget as it was."""
    async with started(colour_store.root, max_upload_bytes=1000) as application:
        leaver = RawClient(headers={"content-length": "1000"})
        leaver.send_body(b"x" * 10, more=True)
        leaver.leave()
        await leaver.request(application.app)
        follower = RawClient(headers={"content-length": "1000"})
        follower.send_body(plain("red"))
        assert (await follower.request(application.app)).status == 200


async def test_failing_model_is_a_500_for_its_batch_alone(colour_store: ModelStore) -> None:
    """When a run fails its images get inference_failed without the reason, and the next request is answered."""
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


async def test_large_images_decode_beside_the_event_loop(colour_store: ModelStore) -> None:
    """A large image is decoded by a worker: while it is held there, a small one is answered."""
    entered, gate = threading.Event(), threading.Event()

    def held(image: Image.Image, spec: Preprocessing) -> Pixels:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            assert gate.wait(PATIENCE_SECONDS)
        return to_pixels(image, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "to_pixels", held)
        async with started(colour_store.root) as application:
            large = asyncio.create_task(
                application.client.post("/v1/predict", content=plain("blue", size=(1100, 400)))
            )
            assert await asyncio.to_thread(entered.wait, PATIENCE_SECONDS)
            small = await application.client.post("/v1/predict", content=plain("red"))
            gate.set()
            assert labels(small.json()["results"] + (await large).json()["results"]) == [
                "red",
                "blue",
            ]


@pytest.mark.parametrize("why", ["left", "late"])
async def test_images_of_a_client_that_is_gone_are_never_decoded(
    colour_store: ModelStore, why: str
) -> None:
    """Whose client left, or whose time passed, while they wait for a decoder: worker and model count what they really ran."""
    decoded, entered, gate = [], threading.Event(), threading.Event()

    def held(image: Image.Image, spec: Preprocessing) -> Pixels:
        decoded.append(image.size)
        entered.set()
        assert gate.wait(PATIENCE_SECONDS)
        return to_pixels(image, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "to_pixels", held)
        async with started(colour_store.root, decode_workers=1) as application:
            model = application.hold_model()
            model.gate.set()
            first = asyncio.create_task(
                application.client.post("/v1/predict", content=plain("red", size=(400, 400)))
            )
            assert await asyncio.to_thread(entered.wait, PATIENCE_SECONDS)
            gone = RawClient(query=b"timeout_ms=100" if why == "late" else b"")
            gone.send_body(plain("blue", size=(500, 500)))
            going = asyncio.create_task(gone.request(application.app))
            await until(gone.messages.empty)
            if why == "left":
                gone.leave()
            await going
            assert gone.status == (504 if why == "late" else 499)
            gate.set()
            assert labels((await first).json()["results"]) == ["red"]
    assert decoded == [(400, 400)]
    assert model.sizes == [1]


async def test_images_of_many_pixels_do_not_hold_the_places_of_others(
    colour_store: ModelStore,
) -> None:
    """With more huge images than workers, all held, one of middle size is decoded and answered."""
    gate = threading.Event()

    def held(image: Image.Image, spec: Preprocessing) -> Pixels:
        assert image.width < 2000 or gate.wait(PATIENCE_SECONDS)
        return to_pixels(image, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "to_pixels", held)
        async with started(colour_store.root, decode_workers=2) as application:
            body = plain("blue", size=(2000, 1100))
            huge = [
                asyncio.create_task(application.client.post("/v1/predict", content=body))
                for _ in range(6)
            ]
            middle = await application.client.post(
                "/v1/predict", content=plain("red", size=(1100, 400))
            )
            assert labels(middle.json()["results"]) == ["red"]
            assert not any(task.done() for task in huge)
            gate.set()
            for task in huge:
                assert labels((await task).json()["results"]) == ["blue"]


async def test_thin_images_that_grow_in_the_resize_decode_beside_the_event_loop(
    tmp_path: Path,
) -> None:
    """1 x 16,000 pixels are few until the shorter side is resized: that work must not stand in the event loop either."""
    store = make_store(tmp_path / "store")
    publish(store)
    threads = []

    def noted(image: Image.Image, spec: Preprocessing) -> Pixels:
        threads.append(threading.current_thread())
        return to_pixels(image, spec)

    thin = io.BytesIO()
    Image.new("RGB", (1, 16_000), (255, 0, 0)).save(thin, "PNG")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "to_pixels", noted)
        async with started(store.root) as application:
            response = await application.client.post("/v1/predict", content=thin.getvalue())
    assert labels(response.json()["results"]) == ["red"]
    assert threads[0] is not threading.main_thread()


async def test_own_timeout_is_kept_and_capped(colour_store: ModelStore) -> None:
    """timeout_ms ends the wait before the service's deadline does, and never after it."""
    async with started(colour_store.root, deadline_seconds=0.3) as application:
        model = application.hold_model()
        first = posting(application, "red")
        await model.begun()
        for timeout in (50, 10_000_000):
            late = await asyncio.wait_for(
                application.client.post(f"/v1/predict?timeout_ms={timeout}", content=plain("blue")),
                5,
            )
            assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
        model.gate.set()
        await first


async def test_what_can_not_be_in_time_is_refused_at_once(colour_store: ModelStore) -> None:
    """With runs of a second and one image ahead, an answer within 100 ms is not waited for: 429, the wait, and when to come."""
    async with started(colour_store.root) as application:
        application.served().wait_estimate.seconds = lambda ahead, images, _: float(ahead + images)
        model = application.hold_model()
        alone = asyncio.create_task(
            application.client.post("/v1/predict?timeout_ms=900", content=plain("red"))
        )
        await model.begun()  # nobody was ahead, so it is tried whatever was predicted
        refused = await application.client.post("/v1/predict?timeout_ms=900", content=plain("blue"))
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert "2,000 ms" in refused.json()["detail"]
        assert int(refused.headers["retry-after"]) >= 1
        model.gate.set()
        assert (await alone).status_code == 200
        assert model.sizes == [1]


async def test_bulk_that_runs_is_in_the_predicted_wait(colour_store: ModelStore) -> None:
    """With runs of ten seconds, of which one has just begun, there is no answer within fifteen, though only bulk came before."""
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


async def test_bulk_takes_the_places_that_interactive_leaves(colour_store: ModelStore) -> None:
    """Bulk that came first is run after interactive that came later, and fills its batch."""
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
async def test_parameters_that_are_not_understood_are_refused(
    colour_store: ModelStore, query: str
) -> None:
    """Nothing is guessed: the problem says what is taken."""
    async with started(colour_store.root) as application:
        response = await application.client.post(f"/v1/predict?{query}", content=plain("red"))
        assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


async def test_request_is_answered_by_the_model_that_it_began_with(store: ModelStore) -> None:
    """A model that becomes the default while a body arrives answers the next request, and this one is not told its labels."""
    async with started(store.root, builtin=True) as application:
        body, client = plain("red"), RawClient(headers={"content-type": "image/png"})
        client.send_body(body[:10], more=True)
        request = asyncio.create_task(client.request(application.app))
        await client.asked.wait()
        publish(store)
        await asyncio.to_thread(reconcile, application.registry)
        assert application.registry.find(None).version.model == MODEL
        client.send_body(body[10:])
        await request
        answer = json.loads(client.body)
        assert answer["model"] == BUILTIN_DEFAULT_MODEL
        assert not set(labels(answer["results"])) & set(COLOURS)
