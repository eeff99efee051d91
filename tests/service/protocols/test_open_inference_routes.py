"""Open Inference routes: documents, errors, keys, deadlines and what is counted."""

import asyncio
from pathlib import Path

import httpx
import numpy as np
import pytest
from asgi_application import started, until
from colour_model import MODEL, SIZE, publish, publish_deviating
from open_inference_bodies import binary, pixels, tensor

from model_store.store import ModelStore
from service.key_changes import add_key

pytestmark = pytest.mark.anyio
URL = f"/v2/models/{MODEL}/infer"


def request(*colours: str, **document: object) -> dict[str, object]:
    shape = [len(colours), SIZE, SIZE, 3]
    return binary(pixels(*colours).tobytes(), inputs=[tensor(shape=shape)], **document)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/none/ready", 404),
        ("GET", "/v2/models/none/stats", 404),
        ("GET", f"/v2/models/{MODEL}/versions/7/config", 404),
        ("GET", f"/v2/models/{MODEL}/versions/x", 400),
        ("POST", "/v2/models/none/infer", 404),
        ("GET", URL, 405),
        ("POST", "/v2", 405),
        ("GET", "/v2/none", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("POST", "/v2/repository/index", 403),
        ("POST", f"/v2/repository/models/{MODEL}/load", 403),
    ],
)
def test_every_error_is_one_message(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    """Also for routes and methods that do not exist."""
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    assert response.headers["x-request-id"]


def test_other_routes_keep_their_problem_details(client: httpx.Client) -> None:
    """Only paths under /v2 have the other form."""
    for path in ("/v20", "/v1/models/none", "/v1/v2/models"):
        assert client.get(path).headers["content-type"] == "application/problem+json"


def test_health_metadata_and_head(client: httpx.Client) -> None:
    """With and without a version and a slash at the end."""
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/").json()["name"] == "resident"
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/1"):
        assert client.get(path).json()["versions"] == ["1"]
        assert client.get(f"{path}/ready").json() == {"name": MODEL, "ready": True}
        assert client.head(f"{path}/ready").status_code == 200
        assert client.get(f"{path}/config").json()["name"] == MODEL
        assert [each["name"] for each in client.get(f"{path}/stats").json()["model_stats"]] == [
            MODEL
        ]


async def test_not_ready_has_a_reason(store: ModelStore) -> None:
    """The server and the model are not ready, and say why."""
    publish_deviating(store)
    async with started(store.root) as application:
        for path, status in (
            ("/v2/health/ready", 503),
            (f"/v2/models/{MODEL}/ready", 503),
            (f"/v2/models/{MODEL}", 503),
        ):
            response = await application.client.get(path)
            assert (response.status_code, list(response.json())) == (status, ["error"])
        assert (await application.client.post(URL, **request("red"))).status_code == 503
        assert (await application.client.get("/v2/models/stats")).json() == {"model_stats": []}


async def test_keys_and_root_path_hold(colour_store: ModelStore, tmp_path: Path) -> None:
    """Inference needs a key once one has the scope; behind a prefix the routes are the same."""
    secret = add_key(tmp_path / "keys.json", "app", ["predict"])
    async with started(
        colour_store.root, keys=tmp_path / "keys.json", root_path="/images"
    ) as application:
        client, bearer = application.client, {"Authorization": f"Bearer {secret}"}
        for prefix in ("", "/images"):
            refused = await client.post(prefix + URL, **request("red"))
            assert (refused.status_code, list(refused.json())) == (401, ["error"])
            assert refused.headers["www-authenticate"]
            arguments = request("red")
            headers = {**arguments.pop("headers"), **bearer}  # type: ignore[dict-item]
            accepted = await client.post(prefix + URL, **arguments, headers=headers)
            assert accepted.status_code == 200
            missing = await client.get(f"{prefix}/v2/none")
            assert (missing.status_code, list(missing.json())) == (404, ["error"])
            index = await client.post(f"{prefix}/v2/repository/index", headers=bearer)
            assert (index.status_code, list(index.json())) == (403, ["error"])


async def test_overload_timeouts_and_priorities(colour_store: ModelStore) -> None:
    """A full queue gets 429 with Retry-After, a missed timeout 504, and bulk waits for the rest."""
    async with started(colour_store.root, max_queue_size=3, max_batch_size=1) as application:
        client, model = application.client, application.hold_model()
        batcher = application.served().batcher
        running = asyncio.create_task(client.post(URL, **request("red")))
        await model.begun()
        bulk = asyncio.create_task(client.post(URL, **request("green", parameters={"priority": 2})))
        await until(lambda: batcher.waiting == 1)
        assert batcher.waiting_bulk == 1
        late = await client.post(URL, **request("blue", parameters={"timeout": 1}))
        assert (late.status_code, list(late.json())) == (429, ["error"])
        assert int(late.headers["retry-after"]) >= 1
        first = asyncio.create_task(client.post(URL, **request("cyan", parameters={"priority": 1})))
        await until(lambda: batcher.waiting == 2)
        full = await client.post(URL, **request("blue", "blue"))
        assert full.status_code == 429
        model.gate.set()
        for response in await asyncio.gather(running, bulk, first):
            assert response.status_code == 200
        colours = [batch[0, 0, 0].tolist() for batch in model.batches]
        assert colours == [[255, 0, 0], [0, 255, 255], [0, 255, 0]]
        idle = await client.post(URL, **request("blue", parameters={"timeout": 1}))
        assert (idle.status_code, list(idle.json())) == (504, ["error"])


async def test_failures_are_counted_by_version(colour_store: ModelStore) -> None:
    """In the statistics, and in the metrics under the code of the error."""
    async with started(colour_store.root) as application:
        client = application.client
        assert (await client.post(URL, **request("red", "red"))).status_code == 200
        assert (await client.post(URL, content=b"{}")).status_code == 400
        (stats,) = (await client.get(f"/v2/models/{MODEL}/stats")).json()["model_stats"]
        assert stats["inference_stats"]["success"]["count"] == 1
        assert stats["inference_stats"]["fail"]["count"] == 1
        assert stats["inference_count"] == 2
        metrics = (await client.get("/metrics")).text
        assert 'resident_requests_total{model="colours",outcome="ok"} 1.0' in metrics
        assert 'resident_requests_total{model="colours",outcome="malformed_json"} 1.0' in metrics


async def test_metadata_lists_the_versions_that_serve(store: ModelStore) -> None:
    """And statistics have one entry for each."""
    publish(store)
    publish(store)
    async with started(store.root, version_policy="all") as application:
        metadata = (await application.client.get(f"/v2/models/{MODEL}")).json()
        assert metadata["versions"] == ["1", "2"]
        stats = (await application.client.get("/v2/models/stats")).json()["model_stats"]
        assert sorted(each["version"] for each in stats) == ["1", "2"]


async def test_embedding_is_an_output_of_models_that_have_one(store: ModelStore) -> None:
    """In the metadata, among all outputs and alone; it has no classes to rank."""
    publish(store, embedding=True)
    async with started(store.root) as application:
        client = application.client
        metadata = (await client.get(f"/v2/models/{MODEL}")).json()
        shapes = {output["name"]: output["shape"] for output in metadata["outputs"]}
        assert shapes["embedding"] == [-1, 3]
        answer = (await client.post(URL, **request("red", "cyan"))).json()
        assert [output["name"] for output in answer["outputs"]] == list(shapes)
        alone = request("red", "cyan", outputs=[{"name": "embedding"}])
        (output,) = (await client.post(URL, **alone)).json()["outputs"]
        assert (output["datatype"], output["shape"]) == ("FP32", [2, 3])
        np.testing.assert_allclose(output["data"], [255, 0, 0, 0, 255, 255], rtol=1e-5)
        ranked = [{"name": "embedding", "parameters": {"classification": 1}}]
        assert (await client.post(URL, **request("red", outputs=ranked))).status_code == 400


async def test_model_that_returns_probabilities_has_no_logits(store: ModelStore) -> None:
    """They could not be computed back, so they are neither listed nor returned."""
    publish(store, kind="probabilities")
    async with started(store.root) as application:
        client = application.client
        metadata = (await client.get(f"/v2/models/{MODEL}")).json()
        assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "labels"]
        answer = (await client.post(URL, **request("red"))).json()
        assert [output["name"] for output in answer["outputs"]] == ["probabilities", "labels"]
        refused = await client.post(URL, **request("red", outputs=[{"name": "logits"}]))
        assert (refused.status_code, list(refused.json())) == (400, ["error"])
