"""Over real HTTP: calibrated probabilities, abstention, and prediction sets by coverage."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import (
    CLASS_NAMES,
    MODEL,
    PREPROCESSING,
    WEIGHTS,
    encode,
    make_store,
    plain,
    publish,
)
from PIL import Image
from server_process import running

from model_store.manifest import Calibration
from model_store.preprocessing import prepare
from model_store.uncertainty import energy

TEMPERATURE = 0.5
THRESHOLDS = {"0.8": 0.5, "0.9": 0.2, "0.95": 0.02}


def logits(image: bytes) -> np.ndarray:
    return np.asarray(
        prepare(image, PREPROCESSING).reshape(-1, 3).mean(axis=0) @ WEIGHTS, np.float32
    )


DARK = encode(Image.new("RGB", (8, 8), (10, 8, 12)))  # far from every colour
LEAST_KNOWN = float(max(energy(logits(plain(colour))[np.newaxis])[0] for colour in CLASS_NAMES))
CALIBRATION = Calibration(
    temperature=TEMPERATURE, energy_threshold=LEAST_KNOWN + 0.1, conformal_thresholds=THRESHOLDS
)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a calibrated model, and one with a temperature only."""
    root: Path = tmp_path_factory.mktemp("calibrated") / "store"
    store = make_store(root)
    publish(store, calibration=CALIBRATION)
    publish(store, "scaled", calibration=Calibration(temperature=TEMPERATURE))
    with running("--store", root, "--no-builtin", "--default-model", MODEL) as server:
        server.announced()
        with server.client() as client:
            yield client


def ask(client: httpx.Client, image: bytes, query: str = "", model: str = MODEL) -> dict[str, Any]:
    response = client.post(f"/v1/models/{model}/predict{query}", content=image)
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    return dict(result)


def expected_probabilities(image: bytes) -> np.ndarray:
    powers = np.exp(logits(image) / TEMPERATURE)
    return np.asarray(powers / powers.sum())


@pytest.mark.parametrize("model", [MODEL, "scaled"])
def test_scores_are_calibrated(calibrated: httpx.Client, model: str) -> None:
    """Every score is scaled by the temperature of the manifest."""
    predictions = ask(calibrated, plain("yellow"), "?top_k=7", model)["predictions"]
    scores = {prediction["label"]: prediction["score"] for prediction in predictions}
    assert [scores[name] for name in CLASS_NAMES] == pytest.approx(
        expected_probabilities(plain("yellow")), abs=2e-6
    )


@pytest.mark.parametrize("colour", CLASS_NAMES)
def test_typical_image_is_not_abstained_on(calibrated: httpx.Client, colour: str) -> None:
    """`abstained` is false, without a reason."""
    result = ask(calibrated, plain(colour))
    assert result["abstained"] is False
    assert list(result) == ["predictions", "abstained"]
    assert result["predictions"][0]["label"] == colour


def test_untypical_image_is_abstained_on_with_the_reason(calibrated: httpx.Client) -> None:
    """The reason names energy and threshold; the predictions are still returned."""
    result = ask(calibrated, DARK)
    assert list(result) == ["predictions", "abstained", "reason"]
    assert result["abstained"] is True
    assert f"{energy(logits(DARK)[np.newaxis])[0]:.2f}" in result["reason"]
    assert f"{CALIBRATION.energy_threshold:.2f}" in result["reason"]
    assert len(result["predictions"]) == 5


def test_model_without_a_threshold_omits_abstained(calibrated: httpx.Client) -> None:
    """`abstained: false` would be a claim that the model cannot make."""
    assert list(ask(calibrated, DARK, model="scaled")) == ["predictions"]


@pytest.mark.parametrize("coverage", THRESHOLDS)
@pytest.mark.parametrize("image", [plain("red"), DARK], ids=["red", "dark"])
def test_coverage_gives_the_prediction_set_of_its_threshold(
    calibrated: httpx.Client, coverage: str, image: bytes
) -> None:
    """It has every label that reaches the threshold and at least one, whatever `top_k` is."""
    probabilities = expected_probabilities(image)
    reaching = [
        index
        for index in np.argsort(-probabilities, kind="stable")
        if probabilities[index] >= THRESHOLDS[coverage]
    ]
    result = ask(calibrated, image, f"?coverage={coverage}&top_k=1")
    assert len(result["predictions"]) == 1
    assert result["labels"] == [
        CLASS_NAMES[index] for index in reaching or [int(probabilities.argmax())]
    ]


def test_sets_grow_with_the_coverage(calibrated: httpx.Client) -> None:
    """A larger coverage starts with the labels of a smaller one; .95, 0.950 and 0.95 are equal."""
    narrow, wide, widest = (
        ask(calibrated, plain("red"), f"?coverage={text}")["labels"]
        for text in ("0.8", "0.9", "0.95")
    )
    assert wide[: len(narrow)] == narrow
    assert widest[: len(wide)] == wide
    assert len(widest) > len(narrow)
    assert all(
        ask(calibrated, plain("red"), f"?coverage={text}")["labels"] == widest
        for text in (".95", "0.950")
    )


def test_each_image_of_a_request_has_its_own_answer(calibrated: httpx.Client) -> None:
    """Typical, untypical and damaged images of one request do not affect each other."""
    images = [
        {"b64": base64.b64encode(image).decode()}
        for image in (plain("red"), DARK, b"no image", plain("blue"))
    ]
    results = calibrated.post("/v1/predict?coverage=0.8", json={"images": images}).json()["results"]
    assert [result.get("abstained") for result in results] == [False, True, None, False]
    assert [result.get("labels", [None])[0] for result in results][::3] == ["red", "blue"]
    assert list(results[2]) == ["error"]


@pytest.mark.parametrize(
    "coverage",
    [
        "0.99",
        "0.5",
        "0",
        "1",
        "1.0",
        "95",
        "-0.9",
        "x",
        "",
        "nan",
        "9e-1",
        " 0.9",
        "0.\u0669",
        "0." + "9" * 5000,
    ],
)
def test_unknown_coverage_is_an_invalid_parameter(calibrated: httpx.Client, coverage: str) -> None:
    """The error names the coverages of the model."""
    response = calibrated.post("/v1/predict", params={"coverage": coverage}, content=plain("red"))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "invalid_parameter")
    assert response.headers["content-type"] == "application/problem+json"
    assert "0.8, 0.9, 0.95" in problem["detail"]
    assert len(response.text) < 1000


def test_coverage_of_a_model_without_thresholds_has_its_own_code(
    calibrated: httpx.Client,
) -> None:
    """It is rejected before the images are read."""
    response = calibrated.post("/v1/models/scaled/predict?coverage=0.9", content=b"no image")
    assert (response.status_code, response.json()["code"]) == (400, "no_label_sets")
    assert "scaled" in response.json()["detail"]


def test_model_details_show_the_calibration(calibrated: httpx.Client) -> None:
    """`can_abstain`, `coverages` and the calibration of the manifest."""
    detail = calibrated.get(f"/v1/models/{MODEL}").json()
    assert (detail["can_abstain"], detail["coverages"]) == (True, [0.8, 0.9, 0.95])
    assert detail["calibration"] == json.loads(CALIBRATION.model_dump_json())
    scaled = calibrated.get("/v1/models/scaled").json()
    assert (scaled["can_abstain"], scaled["coverages"]) == (False, [])
    assert scaled["calibration"]["temperature"] == TEMPERATURE


def test_the_answer_is_what_the_document_says(calibrated: httpx.Client) -> None:
    """A refused image's answer with a set has all documented properties but these four."""
    schemas = calibrated.get("/openapi.json").json()["components"]["schemas"]
    answered = {
        *ask(calibrated, DARK, "?coverage=0.9"),
        "embedding",
        "error",
        "explanation",
        "name",
    }
    assert answered == set(schemas["Result"]["properties"])
