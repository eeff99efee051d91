"""Predictions over real HTTP: every way to send an image, and the response."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import CLASS_NAMES, COLOURS, MODEL, labels, make_store, plain, publish
from server_process import running

from model_store.manifest import Calibration

MEDIA_TYPES = [
    None,
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "image/png",
    "image/jpeg",
    "application/json",
    "multipart/form-data",
    "text/plain; charset=utf-8",
]
PATHS = ["/v1/predict", f"/v1/models/{MODEL}/predict", f"/v1/models/{MODEL}/versions/1/predict"]


def as_json(*images: bytes) -> dict[str, Any]:
    return {"json": {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}}


def as_data_urls(*images: bytes) -> dict[str, Any]:
    return {
        "json": {
            "images": [
                {"b64": f"data:image/png;base64,{base64.b64encode(image).decode()}"}
                for image in images
            ]
        }
    }


def as_multipart(*images: bytes) -> dict[str, Any]:
    return {"files": [("images", (f"{number}.png", image)) for number, image in enumerate(images)]}


def ask(client: httpx.Client, **request: Any) -> dict[str, Any]:
    response = client.post("/v1/predict", **request)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_raw_image_is_accepted_with_any_media_type(
    client: httpx.Client, media_type: str | None
) -> None:
    """A body that starts like an image is classified whatever its media type."""
    headers = {"content-type": media_type} if media_type else {}
    assert labels(ask(client, content=plain("blue"), headers=headers)["results"]) == ["blue"]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_recognised_by_its_bytes(client: httpx.Client, image_format: str) -> None:
    """Each supported format is decoded without a media type."""
    assert labels(ask(client, content=plain("magenta", image_format))["results"]) == ["magenta"]


def test_raw_image_may_be_chunked(client: httpx.Client) -> None:
    """A body without Content-Length is accepted."""
    image = plain("green")
    assert labels(ask(client, content=iter([image[:30], image[30:]]))["results"]) == ["green"]


@pytest.mark.parametrize("path", PATHS)
def test_every_predict_route_has_the_same_response(client: httpx.Client, path: str) -> None:
    """It is {model, version, results, timings}, with predictions of {label, index, score}."""
    response = client.post(path, content=plain("red"))
    answer = response.json()
    assert list(answer) == ["model", "version", "results", "timings"]
    assert (answer["model"], answer["version"]) == (MODEL, 1)
    (result,) = answer["results"]
    assert list(result) == ["predictions"]
    assert all(
        list(prediction) == ["label", "index", "score"] for prediction in result["predictions"]
    )
    assert list(answer["timings"]) == [
        "receive_ms",
        "decode_ms",
        "queue_ms",
        "inference_ms",
        "total_ms",
    ]
    assert all(milliseconds >= 0 for milliseconds in answer["timings"].values())
    digest = client.get(f"/v1/models/{MODEL}").json()["digest"]
    assert response.headers["model-digest"] == digest


def test_all_ways_to_send_images_give_the_same_predictions(client: httpx.Client) -> None:
    """Raw, multipart, base64 and data: URLs of one image get identical results."""
    image = plain("cyan", "JPEG")
    ways = ({"content": image}, as_multipart(image), as_json(image), as_data_urls(image))
    first, *others = ([ask(client, **way)["results"][0]["predictions"]] for way in ways)
    assert others == [first, first, first]


@pytest.mark.parametrize("send", [as_multipart, as_json, as_data_urls])
def test_results_have_the_order_of_the_request(client: httpx.Client, send: Any) -> None:
    """The result of each image is at its position."""
    names = [*COLOURS, *reversed(COLOURS), "red", "red"]
    assert labels(ask(client, **send(*map(plain, names)))["results"]) == names


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 5), ("?top_k=1", 1), ("?top_k=3", 3), ("?top_k=7", 7), ("?top_k=1000", 7)],
)
def test_top_k_is_the_number_of_predictions(client: httpx.Client, query: str, count: int) -> None:
    """`top_k` is 5 by default and capped at the number of classes."""
    response = client.post(f"/v1/predict{query}", content=plain("red"))
    assert len(response.json()["results"][0]["predictions"]) == count


def test_predictions_are_probabilities_best_first(client: httpx.Client) -> None:
    """The scores of all classes sum to 1 and fall; index and label name the same class."""
    answer = client.post(
        "/v1/predict", params={"top_k": len(CLASS_NAMES)}, content=plain("yellow")
    ).json()
    predictions = answer["results"][0]["predictions"]
    scores = [prediction["score"] for prediction in predictions]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert predictions[0]["label"] == "yellow"
    assert all(
        CLASS_NAMES[prediction["index"]] == prediction["label"] for prediction in predictions
    )


@pytest.mark.parametrize("top_k", ["0", "-1", "x", "1.5", "", "+2", " 2", "1e1", "٣", "9" * 5000])
def test_wrong_top_k_is_an_invalid_parameter(client: httpx.Client, top_k: str) -> None:
    """Anything but a whole number from 1 up is rejected, also one with thousands of digits."""
    response = client.post("/v1/predict", params={"top_k": top_k}, content=plain("red"))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert "top_k" in response.json()["detail"]
    assert len(response.text) < 1000


@pytest.mark.parametrize(
    ("send", "bad"), [(as_json, b"no image"), (as_multipart, b"no image"), (as_multipart, b"")]
)
def test_bad_image_has_an_error_in_its_place(client: httpx.Client, send: Any, bad: bytes) -> None:
    """The good images of the request are classified."""
    results = ask(client, **send(plain("red"), bad, plain("blue")))["results"]
    assert labels([results[0], results[2]]) == ["red", "blue"]
    assert set(results[1]) - {"name"} == {"error"}
    assert (results[1]["error"]["code"], results[1]["error"]["status"]) == (
        "empty_image" if not bad else "not_an_image",
        400,
    )
    assert results[1]["error"]["detail"]


def test_request_with_only_bad_images_is_a_4xx(client: httpx.Client) -> None:
    """The problem lists the error of each image in order."""
    response = client.post("/v1/predict", **as_json(b"no image", plain("red")[:50]))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "no_image_classified")
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["code"] for error in problem["errors"]] == ["not_an_image", "truncated_image"]


def test_images_with_the_same_error_give_its_code(client: httpx.Client) -> None:
    """The request gets the code that all of its images share."""
    response = client.post("/v1/predict", **as_json(b"no image", b"nor this"))
    assert (response.status_code, response.json()["code"]) == (400, "not_an_image")


def test_lone_bad_image_gives_its_own_error(client: httpx.Client) -> None:
    """A single bad image in a JSON body gets the same error as a raw one."""
    alone = client.post("/v1/predict", content=b"no image").json()
    assert client.post("/v1/predict", **as_json(b"no image")).json() == alone


def test_connection_is_kept_after_responses_and_errors(client: httpx.Client) -> None:
    """A client may send its next request on the same connection, also after an error."""
    for _ in range(3):
        assert client.post("/v1/predict", content=b"no image").status_code == 400
        assert client.post("/v1/models/none/predict", content=plain("red")).status_code == 404
        assert labels(ask(client, content=plain("red"))["results"]) == ["red"]


CLASSES = 21_841


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a calibrated model of as many classes as ImageNet-21k."""
    store = make_store(tmp_path_factory.mktemp("many") / "store")
    weights = np.random.default_rng(0).normal(0, 0.003, (3, CLASSES)).astype(np.float32)
    publish(
        store,
        weights=weights,
        golden=(),
        proof="unproven",
        class_names=[f"class {number}" for number in range(CLASSES)],
        calibration=Calibration(conformal_thresholds={"0.5": 0.9, "0.999": 1e-9}),
    )
    with (
        running("--store", store.root, "--no-builtin") as server,
        server.announced().client() as client,
    ):
        yield client


def test_best_of_many_classes_are_returned(many_classes: httpx.Client) -> None:
    """The best 1,000 at most, which are the first ones of the complete prediction set."""
    query = {"top_k": 1000, "coverage": 0.999}
    response = many_classes.post(
        "/v1/predict", params=query, **as_json(plain("red"), plain("blue", "JPEG"))
    )
    for result in response.json()["results"]:
        assert len(set(result["labels"])) == CLASSES
        assert [best["label"] for best in result["predictions"]] == result["labels"][:1000]
        scores = [best["score"] for best in result["predictions"]]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("top_k", [1001, 100_000])
def test_more_classes_than_the_limit_are_an_invalid_parameter(
    many_classes: httpx.Client, top_k: int
) -> None:
    """The error names the limit."""
    response = many_classes.post("/v1/predict", params={"top_k": top_k}, content=plain("red"))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert "1,000" in response.json()["detail"]
