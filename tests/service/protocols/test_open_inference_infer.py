"""Inference over REST: tensors in and out, in each form of the protocol."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import CLASS_NAMES, SIZE, WEIGHTS, plain
from open_inference_bodies import (
    JSON_LENGTH,
    binary,
    bytes_tensor,
    pixels,
    split_response,
    tensor,
)

from service.protocols.open_inference.number_text import SLICE_BYTES
from service.protocols.open_inference.schemas import InferAnswer

URL = "/v2/models/colours/infer"
NAMES = ["red", "cyan", "white"]
SHAPE = [3, SIZE, SIZE, 3]


def infer(client: httpx.Client, data: Any, **document: Any) -> dict[str, Any]:
    """A response, which must be as the OpenAPI document declares it."""
    body = {"inputs": [data], **document}
    response = client.post(URL, json=body)
    assert response.status_code == 200, response.text
    InferAnswer.model_validate_json(response.content, extra="forbid")
    parsed: dict[str, Any] = response.json()
    return parsed


def test_example_of_the_documentation_is_answered(client: httpx.Client) -> None:
    """The page of the documentation offers it for any model."""
    example = client.get("/openapi.json").json()["components"]["schemas"]["InferBody"]["example"]
    (output,) = infer(client, *example.pop("inputs"), **example)["outputs"]
    assert output["data"] == ["red"]


def outputs(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {output["name"]: output for output in document["outputs"]}


def logits(*colours: str) -> np.ndarray:
    return pixels(*colours).reshape(len(colours), -1, 3).mean(axis=1) @ WEIGHTS


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores)
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
def test_pixels_as_json_give_all_outputs(client: httpx.Client, nested: bool) -> None:
    """Each has name, datatype, shape and flat data; model, version and id are returned."""
    images = pixels(*NAMES)
    data = images.tolist() if nested else images.reshape(-1).tolist()
    document = infer(client, tensor(data, shape=SHAPE), id="request 7")
    assert {key: document[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "colours",
        "model_version": "1",
        "id": "request 7",
    }
    found = outputs(document)
    assert list(found) == ["probabilities", "logits", "labels"]
    assert found["labels"] == tensor(NAMES, shape=[3], datatype="BYTES", name="labels")
    expected = logits(*NAMES)
    for name, values in (("logits", expected), ("probabilities", softmax(expected))):
        output = found[name]
        assert (output["datatype"], output["shape"]) == ("FP32", [3, len(CLASS_NAMES)])
        np.testing.assert_allclose(output["data"], values.reshape(-1), rtol=1e-4)


def test_pixels_as_bytes_give_bytes(client: httpx.Client) -> None:
    """With `binary_data_output`; an output may say otherwise."""
    request = binary(
        pixels(*NAMES).tobytes(),
        inputs=[tensor(shape=SHAPE)],
        parameters={"binary_data_output": True},
        outputs=[
            {"name": "labels"},
            {"name": "logits"},
            {"name": "probabilities", "parameters": {"binary_data": False}},
        ],
    )
    response = client.post(URL, **request)
    assert response.headers["content-type"] == "application/octet-stream"
    document, contents = split_response(response.content, response.headers[JSON_LENGTH])
    assert contents["labels"] == bytes_tensor(b"red", b"cyan", b"white")
    found = np.frombuffer(contents["logits"], "<f4").reshape(3, -1)
    np.testing.assert_allclose(found, logits(*NAMES), rtol=1e-4)
    assert len(outputs(document)["probabilities"]["data"]) == 3 * len(CLASS_NAMES)
    assert "id" not in document


@pytest.mark.parametrize("column", [True, False], ids=["n,1", "n"])
@pytest.mark.parametrize("form", ["json", "binary"])
def test_encoded_images_are_decoded(client: httpx.Client, form: str, column: bool) -> None:
    """As BYTES: base64 in JSON, and as they are in binary data."""
    images = [plain(name, "JPEG") for name in NAMES]
    shape = [3, 1] if column else [3]
    if form == "json":
        texts: list[Any] = [base64.b64encode(image).decode() for image in images]
        data = [[text] for text in texts] if column else texts
        document = infer(client, tensor(data, shape=shape, datatype="BYTES"))
    else:
        request = binary(bytes_tensor(*images), inputs=[tensor(shape=shape, datatype="BYTES")])
        document = client.post(URL, **request).json()
    assert outputs(document)["labels"]["data"] == NAMES


def test_long_json_is_read_without_objects(client: httpx.Client) -> None:
    """Long pixels and long base64 take their own path, with the same result."""
    names = NAMES * 21
    body = {"inputs": [tensor(pixels(*names).tolist(), shape=[len(names), SIZE, SIZE, 3])]}
    text = json.dumps(body, indent=4)
    assert len(text) > 2 * SLICE_BYTES
    assert outputs(client.post(URL, content=text).json())["labels"]["data"] == names
    noise = np.random.default_rng(0).integers(0, 256, 200_000, np.uint8).tobytes()
    image = base64.b64encode(plain("blue") + noise).decode()
    document = infer(client, tensor([image], shape=[1], datatype="BYTES"))
    assert outputs(document)["labels"]["data"] == ["blue"]


@pytest.mark.parametrize(
    ("body", "labels"),
    [(plain("red", "JPEG"), [b"red"]), (pixels("blue", "green").tobytes(), [b"blue", b"green"])],
    ids=["image", "pixels"],
)
def test_raw_request_is_one_image_or_pixels(
    client: httpx.Client, body: bytes, labels: list[bytes]
) -> None:
    """A body without JSON; all outputs are binary."""
    response = client.post(URL, content=body, headers={JSON_LENGTH: "0"})
    assert response.status_code == 200, response.text
    document, contents = split_response(response.content, response.headers[JSON_LENGTH])
    assert contents["labels"] == bytes_tensor(*labels)
    assert set(contents) == set(outputs(document)) == {"probabilities", "logits", "labels"}


@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_classification_ranks_the_classes(client: httpx.Client, name: str) -> None:
    """`value:index:label`, best first, for as many classes as are asked for and exist."""
    requested = [{"name": name, "parameters": {"classification": 2}}]
    data = tensor(pixels("red", "blue").tolist(), shape=[2, SIZE, SIZE, 3])
    (output,) = infer(client, data, outputs=requested)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [2, 2])
    values, indices, texts = zip(*(each.split(":") for each in output["data"]), strict=True)
    assert (texts[0], texts[2]) == ("red", "blue")
    assert [CLASS_NAMES[int(index)] for index in indices] == list(texts)
    expected = logits("red", "blue")
    expected = softmax(expected) if name == "probabilities" else expected
    best = np.sort(expected, axis=1)[:, ::-1][:, :2].reshape(-1)
    np.testing.assert_allclose(np.array(values, float), best, atol=1e-5)
    requested[0]["parameters"] = {"classification": 99}  # type: ignore[dict-item]
    (output,) = infer(client, data, outputs=requested)["outputs"]
    assert output["shape"] == [2, len(CLASS_NAMES)]


def test_same_json_with_other_pixels_gives_another_answer(client: httpx.Client) -> None:
    """The JSON before binary tensors is parsed once. Each request gets its errors."""
    shape = [1, SIZE, SIZE, 3]
    for colour in ("red", "cyan", "red"):
        found = client.post(
            URL,
            **binary(
                pixels(colour).tobytes(),
                inputs=[tensor(shape=shape)],
                outputs=[{"name": "labels"}],
            ),
        ).json()
        assert found["outputs"][0]["data"] == [colour]
        wrong = binary(pixels(colour).tobytes(), inputs=[{"name": 7}])
        assert client.post(URL, **wrong).status_code == 400


def test_version_in_the_path(client: httpx.Client) -> None:
    """A served one answers, others do not exist."""
    body = {"inputs": [tensor(pixels("red").tolist(), shape=[1, SIZE, SIZE, 3])]}
    for version, status in (("1", 200), ("2", 404), ("x", 400)):
        response = client.post(f"/v2/models/colours/versions/{version}/infer", json=body)
        assert response.status_code == status
        assert (status == 200) == ("error" not in response.json())


def test_one_damaged_image_fails_the_request(client: httpx.Client) -> None:
    """Tensors cannot state an error. The message names the image."""
    request = binary(
        bytes_tensor(plain("red"), b"no image"), inputs=[tensor(shape=[2], datatype="BYTES")]
    )
    response = client.post(URL, **request)
    assert (response.status_code, list(response.json())) == (400, ["error"])
    assert "image 2 of 2" in response.json()["error"]
    request = binary(
        bytes_tensor(b"none", b"no image"), inputs=[tensor(shape=[2], datatype="BYTES")]
    )
    assert client.post(URL, **request).status_code == 400


def test_limits_of_images_and_bytes_hold(limited_client: httpx.Client) -> None:
    """Too many images or bytes get 413, huge images too."""
    for response in (
        limited_client.post(
            URL,
            **binary(pixels(*["red"] * 5).tobytes(), inputs=[tensor(shape=[5, SIZE, SIZE, 3])]),
        ),
        limited_client.post(URL, content=b"x" * 50_001, headers={JSON_LENGTH: "0"}),
        limited_client.post(URL, content=plain("red", size=(400, 400)), headers={JSON_LENGTH: "0"}),
    ):
        assert (response.status_code, list(response.json())) == (413, ["error"])


def test_requests_of_kserve_are_answered(client: httpx.Client) -> None:
    """As `kserve` 0.21 sends them with `InferenceRESTClient`, recorded; it parses the answers."""
    url, content = URL, bytes_tensor(plain("red", "JPEG"))
    text = (
        '{"id":"086b22ac","model_name":"colours","inputs":[{"name":"images","shape":[1],'
        f'"datatype":"BYTES","parameters":{{"binary_data_size":{len(content)}}}}}],'
        '"outputs":[{"name":"labels","parameters":{"binary_data":true}}]}'
    ).encode()
    headers = {JSON_LENGTH: str(len(text)), "content-type": "application/octet-stream"}
    response = client.post(url, content=text + content, headers=headers)
    document, contents = split_response(response.content, response.headers[JSON_LENGTH])
    assert contents == {"labels": bytes_tensor(b"red")}
    assert (document["id"], document["model_name"]) == ("086b22ac", "colours")
    data = ",".join(map(str, pixels("red").reshape(-1)))
    text = (
        '{"id":"5","model_name":"colours","inputs":[{"name":"images","shape":[1,8,8,3],'
        f'"datatype":"UINT8","data":[{data}]}}]}}'
    ).encode()
    response = client.post(url, content=text, headers={"content-type": "application/json"})
    assert outputs(response.json())["labels"]["data"] == ["red"]
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/colours/ready"):
        assert client.get(path).json().popitem()[1] is True
