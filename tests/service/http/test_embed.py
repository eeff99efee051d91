"""Embeddings over real HTTP: as JSON, as bytes, and beside a prediction."""

import base64
import csv
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import COLOURS, MODEL, make_store, plain, publish
from server_process import running

NAMES = ("red", "cyan", "white")
EXPECTED = np.array([COLOURS[name] for name in NAMES], np.float32)
BINARY = {"accept": "application/octet-stream"}
PATHS = ["/v1/embed", f"/v1/models/{MODEL}/embed", f"/v1/models/{MODEL}/versions/1/embed"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a model whose embedding is the mean colour, and one without embedding."""
    store = make_store(tmp_path_factory.mktemp("embed") / "store")
    publish(store, embedding=True)
    publish(store, "without")
    arguments = ("--no-builtin", "--default-model", MODEL, "--max-images", 3)
    with running("--store", store.root, *arguments) as server:
        server.announced()
        with server.client() as client:
            yield client


def as_json(*images: bytes) -> dict[str, Any]:
    return {"json": {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}}


def colours() -> dict[str, Any]:
    return as_json(*map(plain, NAMES))


def code_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_returns_one_embedding_per_image(embedder: httpx.Client, path: str) -> None:
    """In the order of the request, with model, version and timings."""
    response = embedder.post(path, **colours())
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"model", "version", "results", "timings"}
    assert (body["model"], body["version"]) == (MODEL, 1)
    embeddings = [result["embedding"] for result in body["results"]]
    np.testing.assert_allclose(embeddings, EXPECTED, rtol=1e-5)


@pytest.mark.parametrize(
    "accept", ["application/octet-stream", "application/json, Application/Octet-Stream;q=0.5"]
)
def test_accept_chooses_little_endian_float32(embedder: httpx.Client, accept: str) -> None:
    response = embedder.post("/v1/embed", headers={"accept": accept}, **colours())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/octet-stream"
    dims = int(response.headers["embedding-dims"])
    embeddings = np.frombuffer(response.content, "<f4").reshape(-1, dims)
    as_text = embedder.post("/v1/embed", **colours()).json()["results"]
    assert np.array_equal(
        embeddings, np.array([result["embedding"] for result in as_text], np.float32)
    )


def test_an_image_that_fails_has_an_error_in_its_place(embedder: httpx.Client) -> None:
    """Bytes cannot state an error, so a binary response becomes that error."""
    request = as_json(plain("red"), b"no image")
    results = embedder.post("/v1/embed", **request).json()["results"]
    assert [set(result) for result in results] == [{"embedding"}, {"error"}]
    assert results[1]["error"]["code"] == "not_an_image"
    assert code_of(embedder.post("/v1/embed", headers=BINARY, **request)) == (400, "not_an_image")


def test_limits_and_errors_are_those_of_predictions(embedder: httpx.Client) -> None:
    red = plain("red")
    assert code_of(embedder.post("/v1/embed")) == (400, "empty_body")
    assert code_of(embedder.post("/v1/embed", **as_json(*[red] * 4))) == (413, "too_many_images")
    assert code_of(embedder.post("/v1/models/none/embed", content=red)) == (404, "model_not_found")
    assert code_of(embedder.get("/v1/embed")) == (405, "method_not_allowed")
    for query in ("top_k=3", "embedding=true", "timeout_ms=0", "version=1&alias=production"):
        response = embedder.post(f"/v1/embed?{query}", content=red)
        assert code_of(response) == (400, "invalid_parameter")


def test_a_prediction_has_an_embedding_only_if_it_is_asked_for(embedder: httpx.Client) -> None:
    (plain_result,) = embedder.post("/v1/predict", content=plain("red")).json()["results"]
    assert set(plain_result) == {"predictions"}
    (result,) = embedder.post("/v1/predict?embedding=true", content=plain("red")).json()["results"]
    assert result["predictions"] == plain_result["predictions"]
    np.testing.assert_allclose(result["embedding"], COLOURS["red"], rtol=1e-5)
    response = embedder.post("/v1/predict?embedding=perhaps", content=plain("red"))
    assert code_of(response) == (400, "invalid_parameter")


@pytest.mark.parametrize("path", ["embed", "predict?embedding=true"])
def test_a_model_without_embedding_says_so(embedder: httpx.Client, path: str) -> None:
    """The details of a model state the length of its embedding, or null."""
    response = embedder.post(f"/v1/models/without/{path}", content=plain("red"))
    assert code_of(response) == (400, "no_embedding")
    dims = [
        embedder.get(f"/v1/models/{name}").json()["embedding_dims"] for name in (MODEL, "without")
    ]
    assert dims == [3, None]


def test_files_of_a_form_have_their_names(embedder: httpx.Client) -> None:
    files = [("images", (f"{name}.png", plain(name))) for name in NAMES]
    results = embedder.post("/v1/embed", files=files).json()["results"]
    assert [result["name"] for result in results] == [f"{name}.png" for name in NAMES]


def test_a_prediction_as_lines_and_as_csv_has_the_embedding_too(embedder: httpx.Client) -> None:
    lines, table = (
        embedder.post(
            "/v1/predict?embedding=true", content=plain("red"), headers={"accept": accept}
        ).text.splitlines()
        for accept in ("application/x-ndjson", "text/csv")
    )
    np.testing.assert_allclose(json.loads(lines[0])["embedding"], COLOURS["red"], rtol=1e-5)
    first = next(csv.DictReader(table))
    np.testing.assert_allclose(json.loads(first["embedding"]), COLOURS["red"], rtol=1e-5)
