"""Programs that were written for TensorFlow Serving, or for KServe's protocol v1."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import CLASS_NAMES, plain
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.protocols.tensorflow_serving import InstancesAnswer

PREDICT = "/v1/models/colours:predict"


def instance(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


def test_each_instance_gets_its_prediction_in_order(client: httpx.Client) -> None:
    colours = ("red", "cyan", "white", "red")
    body = {"instances": [instance(plain(colour)) for colour in colours]}
    answer = client.post(PREDICT, json=body)
    assert answer.status_code == 200
    InstancesAnswer.model_validate(answer.json(), strict=True)
    predictions = answer.json()["predictions"]
    assert [entry["label"] for entry in predictions] == list(colours)
    for entry in predictions:
        assert len(entry["probabilities"]) == len(CLASS_NAMES)
        assert sum(entry["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert entry["classes"] == np.argmax(entry["probabilities"])
        assert CLASS_NAMES[entry["classes"]] == entry["label"]


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"image_bytes": instance(plain("blue"))}]},
        {"signature_name": "serving_default", "instances": [instance(plain("blue"))]},
        {"instances": [instance(plain("blue", "BMP", (300, 200)))]},
    ],
)
@pytest.mark.parametrize("path", [PREDICT, "/v1/models/colours/versions/1:predict"])
def test_the_forms_that_its_clients_send_are_read(
    client: httpx.Client, path: str, body: dict[str, Any]
) -> None:
    """The name of an input, a signature, a large image, and a body without a media type."""
    answer = client.post(path, content=httpx.Request("POST", "http://x", json=body).content)
    assert answer.json()["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("a:b", 404),
        ("colours/versions/a:b", 400),
        ("colours/labels/a:b", 400),
        ("colours/labels/1", 400),
        ("colours/labels/%0A", 400),
    ],
)
def test_impossible_names_get_an_error(client: httpx.Client, path: str, status: int) -> None:
    """The error has the format of these routes."""
    body = {"instances": [instance(plain("red"))]}
    answer = client.post(f"/v1/models/{path}:predict", json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


def test_a_label_of_a_version_is_an_alias(colour_store: ModelStore) -> None:
    with running("--store", colour_store.root, "--no-builtin") as server:
        server.announced()
        colour_store.promote("colours", 1, alias="stable")
        with server.client() as client:
            body = {"instances": [instance(plain("red"))]}
            answer = client.post("/v1/models/colours/labels/stable:predict", json=body)
            assert answer.json()["predictions"][0]["label"] == "red"
            unknown = client.post("/v1/models/colours/labels/canary:predict", json=body)
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PREDICT, {"instances": []}, 400),
        (PREDICT, {"inputs": [instance(plain("red"))]}, 400),
        (PREDICT, {"instances": [[[[255, 0, 0]]]]}, 400),
        (PREDICT, {"instances": [{"b64": "no base64!"}]}, 400),
        (PREDICT, {"instances": [{"b64": "", "c": 1}]}, 400),
        (PREDICT, {"instances": [{"a": instance(b"x"), "b": instance(b"y")}]}, 400),
        (PREDICT, {"instances": [instance(plain("red")), instance(b"no image")]}, 400),
        (PREDICT, {"instances": [instance(plain("red"))] * 65}, 413),
        ("/v1/models/none:predict", {"instances": [instance(plain("red"))]}, 404),
        ("/v1/models/colours/versions/9:predict", {"instances": []}, 404),
        ("/v1/models/colours/versions/x:predict", {"instances": []}, 400),
    ],
)
def test_every_error_is_an_object_with_a_message(
    client: httpx.Client, path: str, body: dict[str, Any], status: int
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"instances": ' + b"[" * 5000, b'{"' + b"a" * 9000]
)
def test_a_body_that_is_something_else_is_400(client: httpx.Client, content: bytes) -> None:
    answer = client.post(PREDICT, content=content)
    assert answer.status_code == 400
    assert len(answer.json()["error"]) < 2000


def test_get_is_not_allowed(server: ServerProcess) -> None:
    with server.client() as client:
        answer = client.get(PREDICT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
