"""Programs that were written for TorchServe: predictions, health, models, default version."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from colour_model import COLOURS, make_store, plain, publish
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.key_changes import add_key


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Versions 1 and 2 of `colours`; version 1 is the default."""
    store = make_store(tmp_path_factory.mktemp("torchserve") / "store")
    publish(store)
    publish(store)
    store.promote("colours", 1)
    return store


@pytest.fixture(scope="module")
def torchserve(store: ModelStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that answers TorchServe's API, and a key that may manage it."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    secret = add_key(file, "operator", ["manage"])
    options = ("--store", store.root, "--no-builtin", "--torchserve-api", "--version-policy", "all",
               "--keys", file, "--store-poll-seconds", "0.1")  # fmt: skip
    with running(*options) as server:
        yield server.announced(), secret


@pytest.fixture(scope="module")
def client(torchserve: Any) -> Iterator[httpx.Client]:
    with torchserve[0].client() as client:
        yield client


def assert_error(answer: httpx.Response, status: int, kind: str) -> None:
    assert answer.status_code == status
    document = answer.json()
    assert set(document) == {"code", "type", "message"}
    assert (document["code"], document["type"]) == (status, kind)
    assert document["message"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/predictions/colours", "/predictions/colours/1.0"])
def test_a_prediction_is_the_five_best_labels_with_their_probabilities(
    client: httpx.Client, path: str, method: str
) -> None:
    answer = client.request(method, path, content=plain("cyan"))
    expected = client.post("/v1/models/colours/predict", content=plain("cyan")).json()
    assert answer.status_code == 200
    assert list(answer.json().items()) == [
        (entry["label"], entry["score"]) for entry in expected["results"][0]["predictions"]
    ]
    assert next(iter(answer.json())) == "cyan"
    assert len(answer.json()) == 5 < len(COLOURS)
    assert answer.headers["content-type"] == "application/json"


def test_a_form_with_any_field_is_read(client: httpx.Client) -> None:
    answer = client.post("/predictions/colours", files={"data": ("a.png", plain("red"))})
    assert next(iter(answer.json())) == "red"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_command_of_its_quick_start_works(torchserve: Any, tmp_path: Path) -> None:
    """`curl -T` sends PUT, and waits for 100 Continue before a large body."""
    image = tmp_path / "image.bmp"
    image.write_bytes(plain("blue", "BMP", (700, 700)))
    url = f"{torchserve[0].address}/predictions/colours"
    done = subprocess.run(
        ["curl", "--silent", "--fail", url, "-T", image], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith('{"blue":')


@pytest.mark.parametrize(
    ("path", "content", "status", "kind"),
    [
        ("/predictions/none", b"", 404, "ModelNotFoundException"),
        ("/predictions/colours/7", b"", 404, "ModelVersionNotFoundException"),
        ("/predictions/colours/1.5", b"", 400, "BadRequestException"),
        ("/predictions/colours", b"", 400, "BadRequestException"),
        ("/predictions/colours", b"no image", 400, "BadRequestException"),
    ],
)
def test_errors_are_its_error_object(
    client: httpx.Client, path: str, content: bytes, status: int, kind: str
) -> None:
    assert_error(client.post(path, content=content), status, kind)


def test_a_request_has_one_image(client: httpx.Client) -> None:
    files = [("a", ("a.png", plain("red"))), ("b", ("b.png", plain("red")))]
    assert_error(client.post("/predictions/colours", files=files), 400, "BadRequestException")


def test_another_method_is_refused(client: httpx.Client) -> None:
    answer = client.delete("/predictions/colours")
    assert_error(answer, 405, "MethodNotAllowedException")
    assert answer.headers["allow"] == "POST, PUT"


def test_models_are_listed_page_by_page(client: httpx.Client) -> None:
    assert client.get("/models").json() == {
        "models": [{"modelName": "colours", "modelUrl": "colours/1"}]
    }
    page = client.get("/models", params={"limit": 1, "next_page_token": 1}).json()
    assert page == {"models": []}
    assert_error(client.get("/models", params={"limit": 0}), 400, "BadRequestException")


def test_a_model_and_its_versions_are_described(client: httpx.Client) -> None:
    (default,) = client.get("/models/colours").json()
    assert (default["modelName"], default["modelVersion"]) == ("colours", "1")
    assert default["minWorkers"] == default["maxWorkers"] == len(default["workers"])
    assert {worker["status"] for worker in default["workers"]} == {"READY"}
    (second,) = client.get("/models/colours/2.0").json()
    assert second["modelVersion"] == "2"
    every = client.get("/models/colours/all").json()
    assert [model["modelVersion"] for model in every] == ["1", "2"]
    assert_error(client.get("/models/none"), 404, "ModelNotFoundException")
    assert_error(client.get("/models/none/all"), 404, "ModelNotFoundException")
    assert_error(client.get("/models/colours/3"), 404, "ModelVersionNotFoundException")


def test_ping_says_healthy(client: httpx.Client) -> None:
    answer = client.get("/ping")
    assert (answer.status_code, answer.json()) == (200, {"status": "Healthy"})


def test_the_default_version_is_set_with_a_key_that_may_manage(
    client: httpx.Client, torchserve: Any, store: ModelStore
) -> None:
    path = "/models/colours/2.0/set-default"
    assert_error(client.put(path), 401, "InvalidKeyException")
    headers = {"Authorization": f"Bearer {torchserve[1]}"}
    answer = client.put(path, headers=headers)
    assert answer.status_code == 200, answer.text
    assert '"colours" to "2.0"' in answer.json()["status"]
    assert store.resolve("colours") == 2
    assert client.get("/models/colours").json()[0]["modelVersion"] == "2"
    missing = client.put("/models/colours/9.0/set-default", headers=headers)
    assert_error(missing, 404, "ModelVersionNotFoundException")
    store.promote("colours", 1)


def test_it_is_off_by_default(server: ServerProcess) -> None:
    with server.client() as client:
        for path in ("/ping", "/models", "/models/colours"):
            assert client.get(path).status_code == 404
        answer = client.post("/predictions/colours", content=plain("red"))
    assert answer.status_code == 404
    assert answer.json()["code"] == "route_not_found"


def test_ping_of_a_service_that_is_not_ready_is_500(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    options = ("--store", store.root, "--no-builtin", "--torchserve-api")
    with running(*options) as server, server.listening().client() as client:
        answer = client.get("/ping")
    assert (answer.status_code, answer.json()) == (500, {"status": "Unhealthy"})
