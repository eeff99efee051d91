"""What every protocol over HTTP has: keys, prefix, and 429 of a full queue in its own words."""

import asyncio
import base64
from pathlib import Path

import pytest
from asgi_application import started
from colour_model import plain

from model_store.store import ModelStore
from service.key_changes import add_key

pytestmark = pytest.mark.anyio
IMAGE = plain("red")
INSTANCES = b'{"instances": [{"b64": "%s"}]}' % base64.b64encode(IMAGE)
REQUESTS: list[tuple[str, bytes, set[str]]] = [
    ("/predictions/colours", IMAGE, {"code", "type", "message"}),
    ("/predictions/colours/1.0", IMAGE, {"code", "type", "message"}),
    ("/v1/models/colours:predict", INSTANCES, {"error"}),
    ("/v1/models/colours/versions/1:predict", INSTANCES, {"error"}),
]


@pytest.mark.parametrize(("path", "body", "fields"), REQUESTS, ids=[path for path, *_ in REQUESTS])
async def test_a_key_is_needed_once_one_may_predict_also_behind_a_prefix(
    colour_store: ModelStore, tmp_path: Path, path: str, body: bytes, fields: set[str]
) -> None:
    keys = tmp_path / "keys.json"
    secret = add_key(keys, "app", ["predict"])
    settings = {"keys": keys, "root_path": "/images", "torchserve_api": True}
    async with started(colour_store.root, **settings) as application:
        for prefix in ("", "/images"):
            refused = await application.client.post(prefix + path, content=body)
            assert (refused.status_code, set(refused.json())) == (401, fields)
            assert refused.headers["www-authenticate"]
            headers = {"Authorization": f"Bearer {secret}"}
            answer = await application.client.post(prefix + path, content=body, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize(("path", "body", "fields"), REQUESTS, ids=[path for path, *_ in REQUESTS])
async def test_a_full_queue_is_429_with_retry_after(
    colour_store: ModelStore, path: str, body: bytes, fields: set[str]
) -> None:
    settings = {"max_queue_size": 1, "max_batch_size": 1, "torchserve_api": True}
    async with started(colour_store.root, **settings) as application:
        model = application.hold_model()
        running = asyncio.create_task(application.client.post("/v1/predict", content=IMAGE))
        await model.begun()
        full = await application.client.post(path, content=body)
        assert (full.status_code, set(full.json())) == (429, fields)
        assert int(full.headers["retry-after"]) >= 1
        model.gate.set()
        assert (await running).status_code == 200
