"""`explain` in predictions over HTTP."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from colour_model import plain
from http_problems import check_problem
from PIL import Image
from server_process import running

from model_store.store import BUILTIN_ROOT

GOLDEN = BUILTIN_ROOT / "cifar10/1/golden"
CAT = (GOLDEN / "cat.jpg").read_bytes()


@contextmanager
def serving_builtin(precision: str) -> Iterator[httpx.Client]:
    words = ("--store", "no-store-of-a-test", "--precision", precision)
    with running(*words) as server, server.announced().client() as client:
        yield client


@pytest.fixture(scope="module")
def builtin() -> Iterator[httpx.Client]:
    with serving_builtin("fp32") as client:
        yield client


def test_map_explains_the_score(builtin: httpx.Client) -> None:
    """The softmax of mean(map) + bias over the temperature is the score of every label."""
    check_map(builtin, 1e-5)


def test_map_explains_the_score_of_int8_within_its_rounding() -> None:
    with serving_builtin("int8") as client:
        assert client.get("/v1/models/cifar10").json()["precision"] == "int8"
        check_map(client, 1e-3)


def check_map(builtin: httpx.Client, tolerance: float) -> None:
    temperature = builtin.get("/v1/models/cifar10").json()["calibration"]["temperature"]
    (result,) = builtin.post("/v1/predict?explain=map&top_k=10", content=CAT).json()["results"]
    explained = result["explanation"]["labels"]
    assert [each["label"] for each in explained] == [
        each["label"] for each in result["predictions"]
    ]
    logits = np.array([np.mean(each["map"]) + each["bias"] for each in explained])
    powers = np.exp((logits - logits.max()) / temperature)
    scores = [each["score"] for each in result["predictions"]]
    np.testing.assert_allclose(powers / powers.sum(), scores, rtol=0, atol=tolerance)
    assert result["explanation"]["image"] == {"width": 451, "height": 300}
    region = result["explanation"]["region"]
    assert (region["top"], region["height"]) == (0, 300)
    assert 0 < region["left"] < region["left"] + region["width"] < 451


def test_overlay_is_a_png_of_the_upright_image(builtin: httpx.Client) -> None:
    """One for each label, in the aspect ratio after EXIF orientation."""
    image = (GOLDEN / "exif-6.jpg").read_bytes()
    width, height = Image.open(io.BytesIO(image)).size
    (result,) = builtin.post("/v1/predict?explain=overlay&top_k=2", content=image).json()["results"]
    assert result["explanation"]["image"] == {"width": height, "height": width}
    for each in result["explanation"]["labels"]:
        overlay = Image.open(io.BytesIO(base64.b64decode(each["overlay"])))
        assert overlay.format == "PNG"
        assert overlay.width / overlay.height == pytest.approx(height / width, rel=0.05)
        assert "map" not in each


def test_each_image_of_a_form_is_explained_or_failed(builtin: httpx.Client) -> None:
    files = [("images", ("cat.jpg", CAT)), ("images", ("x.jpg", b"x")), ("images", ("y.jpg", CAT))]
    results = builtin.post("/v1/predict?explain=map", files=files).json()["results"]
    assert ["explanation" in result for result in results] == [True, False, True]
    assert results[0]["explanation"] == results[2]["explanation"]


def test_prediction_without_explain_has_none(builtin: httpx.Client) -> None:
    (result,) = builtin.post("/v1/predict", content=CAT).json()["results"]
    assert "explanation" not in result


def test_both_extra_outputs_may_be_asked_for(builtin: httpx.Client) -> None:
    path = "/v1/predict?explain=map&embedding=true&top_k=1"
    (result,) = builtin.post(path, content=CAT).json()["results"]
    assert {"explanation", "embedding"} <= set(result)


def test_version_without_feature_map_cannot_explain(
    client: httpx.Client, builtin: httpx.Client
) -> None:
    response = client.post("/v1/predict?explain=map", content=plain("red"))
    check_problem(response, 400, "no_explanation")
    assert client.get("/v1/models/colours").json()["can_explain"] is False
    check_problem(builtin.post("/v1/predict?explain=x", content=CAT), 400, "invalid_parameter")


def test_explanations_of_a_request_are_limited() -> None:
    """1,000 labels, over all its images."""
    body = {"images": [base64.b64encode(CAT).decode()] * 101}
    flags = ("--store", "no-store-of-a-test", "--max-images", 200)
    with running(*flags) as server, server.announced().client() as client:
        url = "/v1/predict?explain=overlay&top_k="
        check_problem(client.post(url + "1000", json=body), 400, "invalid_parameter")
        assert len(client.post(url + "1", json=body).json()["results"]) == 101
