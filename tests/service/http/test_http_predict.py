"""Predictions over real HTTP: every way to send an image, and the answer's shape."""

import base64
from typing import Any

import httpx
import pytest
from colour_model import CLASS_NAMES, COLOURS, MODEL, labels, plain

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
def test_raw_image_is_taken_under_any_media_type(
    client: httpx.Client, media_type: str | None
) -> None:
    """An image as the body is classified whatever media type the client puts there."""
    headers = {"content-type": media_type} if media_type else {}
    assert labels(ask(client, content=plain("blue"), headers=headers)["results"]) == ["blue"]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_recognised_by_its_bytes(client: httpx.Client, image_format: str) -> None:
    """Each format that we promise is decoded without being named."""
    assert labels(ask(client, content=plain("magenta", image_format))["results"]) == ["magenta"]


def test_raw_image_may_come_in_chunks(client: httpx.Client) -> None:
    """A body without Content-Length is an image too."""
    image = plain("green")
    assert labels(ask(client, content=iter([image[:30], image[30:]]))["results"]) == ["green"]


@pytest.mark.parametrize("path", PATHS)
def test_every_predict_route_answers_with_the_same_shape(client: httpx.Client, path: str) -> None:
    """The answer is {model, version, results, timings}, and predictions are {label, index, score}, on each route."""
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
    """Raw, multipart, base64 and data: URLs of one image are answered to the digit alike."""
    image = plain("cyan", "JPEG")
    ways = ({"content": image}, as_multipart(image), as_json(image), as_data_urls(image))
    first, *others = (ask(client, **way)["results"] for way in ways)
    assert others == [first, first, first]


@pytest.mark.parametrize("send", [as_multipart, as_json, as_data_urls])
def test_results_stand_in_the_order_of_the_request(client: httpx.Client, send: Any) -> None:
    """Each of many images gets its own result in its own place."""
    names = [*COLOURS, *reversed(COLOURS), "red", "red"]
    assert labels(ask(client, **send(*map(plain, names)))["results"]) == names


@pytest.mark.parametrize(
    ("query", "count"),
    [("", 5), ("?top_k=1", 1), ("?top_k=3", 3), ("?top_k=7", 7), ("?top_k=1000", 7)],
)
def test_top_k_is_how_many_classes_come(client: httpx.Client, query: str, count: int) -> None:
    """top_k is 5 when it is not said and is capped at the model's classes."""
    response = client.post(f"/v1/predict{query}", content=plain("red"))
    assert len(response.json()["results"][0]["predictions"]) == count


def test_predictions_are_probabilities_best_first(client: httpx.Client) -> None:
    """All classes together score 1, the first is the greatest, and index and label name the same class."""
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
    """What is no whole number from 1 up is refused by name, also when it has thousands of digits."""
    response = client.post("/v1/predict", params={"top_k": top_k}, content=plain("red"))
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")
    assert "top_k" in response.json()["detail"]
    assert len(response.text) < 1000


@pytest.mark.parametrize(
    ("send", "bad"), [(as_json, b"no image"), (as_multipart, b"no image"), (as_multipart, b"")]
)
def test_bad_image_has_its_own_error_in_its_place(
    client: httpx.Client, send: Any, bad: bytes
) -> None:
    """One bad image among good ones costs the others nothing."""
    results = ask(client, **send(plain("red"), bad, plain("blue")))["results"]
    assert labels([results[0], results[2]]) == ["red", "blue"]
    assert list(results[1]) == ["error"]
    assert (results[1]["error"]["code"], results[1]["error"]["status"]) == (
        "empty_image" if not bad else "not_an_image",
        400,
    )
    assert results[1]["error"]["detail"]


def test_request_whose_every_image_is_bad_is_a_4xx(client: httpx.Client) -> None:
    """Nothing to answer is an error for the request, which lists each image's own error in order."""
    response = client.post("/v1/predict", **as_json(b"no image", plain("red")[:50]))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (400, "no_image_classified")
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["code"] for error in problem["errors"]] == ["not_an_image", "truncated_image"]


def test_images_that_are_bad_alike_give_their_code(client: httpx.Client) -> None:
    """Two images with the same trouble give the request that trouble's code."""
    response = client.post("/v1/predict", **as_json(b"no image", b"nor this"))
    assert (response.status_code, response.json()["code"]) == (400, "not_an_image")


def test_lone_bad_image_gives_its_own_error(client: httpx.Client) -> None:
    """A single bad image in a batch body is answered as if it had been sent raw."""
    alone = client.post("/v1/predict", content=b"no image").json()
    assert client.post("/v1/predict", **as_json(b"no image")).json() == alone


def test_connection_is_kept_after_answers_and_errors(client: httpx.Client) -> None:
    """A client may send its next request on the same connection, also after it was refused."""
    for _ in range(3):
        assert client.post("/v1/predict", content=b"no image").status_code == 400
        assert client.post("/v1/models/none/predict", content=plain("red")).status_code == 404
        assert labels(ask(client, content=plain("red"))["results"]) == ["red"]
