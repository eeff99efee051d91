"""Real responses of the prediction routes against the OpenAPI document."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from colour_model import MODEL, encode, labels, make_store, plain, publish
from PIL import Image
from server_process import running

from model_store.manifest import Calibration

RED = plain("red")
DARK = encode(Image.new("RGB", (8, 8), (10, 8, 12)))  # far from every colour
CALIBRATION = Calibration(energy_threshold=-4.0, conformal_thresholds={"0.9": 0.2})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a model that abstains and has prediction sets, and one without calibration."""
    root: Path = tmp_path_factory.mktemp("schema") / "store"
    store = make_store(root)
    publish(store, calibration=CALIBRATION)
    publish(store, "plain", embedding=True)
    with running("--store", root, "--no-builtin", "--default-model", MODEL) as server:
        server.announced()
        with server.client() as client:
            yield client


@pytest.fixture(scope="module")
def document(calibrated: httpx.Client) -> dict[str, Any]:
    """The OpenAPI document, in which no object may have a property that is not declared."""
    document: dict[str, Any] = calibrated.get("/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
    return document


def check(document: dict[str, Any], response: httpx.Response, path: str = "/v1/predict") -> Any:
    """Validate a response against what the document says of its route, status and media type."""
    responses = document["paths"][path]["post"]["responses"]
    content = responses[str(response.status_code)]["content"]
    media_type = response.headers["content-type"]
    assert media_type in content
    body = response.json()
    schema = {**content[media_type]["schema"], "components": document["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(body)
    return body


def as_json(*images: bytes) -> dict[str, Any]:
    return {"json": {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}}


def test_plain_result(calibrated: httpx.Client, document: dict[str, Any]) -> None:
    """A model without calibration returns predictions only."""
    path = "/v1/models/{model}/predict"
    body = check(document, calibrated.post(path.format(model="plain"), content=RED), path)
    (result,) = body["results"]
    assert set(result) == {"predictions"}


def test_embeddings(calibrated: httpx.Client, document: dict[str, Any]) -> None:
    """Of an embedding request, with an error, and beside a prediction."""
    path = "/v1/models/{model}/embed"
    response = calibrated.post(path.format(model="plain"), **as_json(RED, b"no image"))
    assert [set(each) for each in check(document, response, path)["results"]] == [
        {"embedding"},
        {"error"},
    ]
    path = "/v1/models/{model}/predict"
    response = calibrated.post(path.format(model="plain") + "?embedding=true", content=RED)
    (result,) = check(document, response, path)["results"]
    assert set(result) == {"predictions", "embedding"}


def test_abstained_result(calibrated: httpx.Client, document: dict[str, Any]) -> None:
    """An image that the model abstains on has predictions and a reason."""
    path = "/v1/models/{model}/versions/{version}/predict"
    body = check(document, calibrated.post(path.format(model=MODEL, version=1), content=DARK), path)
    (result,) = body["results"]
    assert set(result) == {"predictions", "abstained", "reason"}


def test_result_with_a_prediction_set(calibrated: httpx.Client, document: dict[str, Any]) -> None:
    """`coverage` adds the labels of the prediction set."""
    body = check(document, calibrated.post("/v1/predict?coverage=0.9", content=RED))
    (result,) = body["results"]
    assert set(result) == {"predictions", "labels", "abstained"}


def test_batch_with_an_error(calibrated: httpx.Client, document: dict[str, Any]) -> None:
    """An image that cannot be classified has an error in its place."""
    body = check(document, calibrated.post("/v1/predict", **as_json(RED, b"no image")))
    assert labels(body["results"][:1]) == ["red"]
    assert set(body["results"][1]) == {"error"}


@pytest.mark.parametrize(
    ("path", "request_parts", "status"),
    [
        ("/v1/predict", {"content": b""}, 400),
        ("/v1/predict?top_k=0", {"content": RED}, 400),
        ("/v1/predict", as_json(b"no image", b"no image"), 400),
        ("/v1/models/nobody/predict", {"content": RED}, 404),
        ("/v1/predict", as_json(*[RED] * 65), 413),
        ("/v1/predict", {"content": RED, "headers": {"content-encoding": "br"}}, 415),
    ],
)
def test_problem_details(
    calibrated: httpx.Client,
    document: dict[str, Any],
    path: str,
    request_parts: dict[str, Any],
    status: int,
) -> None:
    """Errors are the documented problem; `errors` has an entry per image if all failed."""
    response = calibrated.post(path, **request_parts)
    assert response.status_code == status
    body = check(document, response)
    assert ("errors" in body) == (request_parts == as_json(b"no image", b"no image"))


@pytest.mark.parametrize(
    ("name", "accepted", "rejected"),
    [
        ("top_k", ["1", "5", "1000"], ["0", "-1", "1.5", "x", "", "1001", "100000", "+1", "01"]),
        ("timeout_ms", ["30000", "999999999"], ["0", "-1", "1.5", "x", "", "1000000000"]),
        ("priority", ["1", "2"], ["0", "3", "high", ""]),
        ("coverage", ["0.9", ".90"], ["0", "1", "1.5", "-0.9", "x", ""]),
    ],
)
def test_query_is_accepted_as_documented(
    calibrated: httpx.Client,
    document: dict[str, Any],
    name: str,
    accepted: list[str],
    rejected: list[str],
) -> None:
    """The schema of each query parameter accepts and rejects the values that the service does."""
    parameters = document["paths"]["/v1/predict"]["post"]["parameters"]
    (schema,) = [parameter["schema"] for parameter in parameters if parameter["name"] == name]
    for text in (*accepted, *rejected):
        status = calibrated.post("/v1/predict", params={name: text}, content=RED).status_code
        assert (status == 200) == (text in accepted), text
        value = float(text) if is_number(text) else text
        canonical = text not in {"+1", "01"}  # numbers in JSON have one notation only
        assert jsonschema.Draft202012Validator(schema).is_valid(value) in {
            text in accepted,
            not canonical,
        }, text


def is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdecimal()


def test_json_body_is_accepted_as_documented(
    calibrated: httpx.Client, document: dict[str, Any]
) -> None:
    """The schema of the JSON body accepts and rejects what the service does."""
    content = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    good: dict[str, Any] = as_json(RED)["json"]
    for body in (good, {}, {"images": {}}, {"images": [{}]}, {**good, "more": 1}, ["QUJD"]):
        status = calibrated.post("/v1/predict", json=body).status_code
        assert (status == 200) == jsonschema.Draft202012Validator(schema).is_valid(body), body
