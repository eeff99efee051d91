"""Malformed inference requests: each gets a 4xx with a message, whatever is wrong."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from colour_model import MODEL, SIZE, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_inference_bodies import JSON_LENGTH, binary, bytes_tensor, pixels, tensor
from registries import options

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.errors import ServiceError
from service.protocols.open_inference.infer_request import InferRequest
from service.protocols.open_inference.rest_request import read_infer_request
from service.versions.reconciler import reconcile
from service.versions.registry import Registry

URL = "/v2/models/colours/infer"
ONE = [1, SIZE, SIZE, 3]
RED = pixels("red").tobytes()
JPEG = plain("red", "JPEG")
HUGE = 2**63 - 1


def sized(size: Any, content: bytes = RED) -> dict[str, Any]:
    return binary(content, inputs=[tensor(shape=ONE, parameters={"binary_data_size": size})])


def with_header(value: str) -> dict[str, Any]:
    return {**binary(RED, inputs=[tensor(shape=ONE)]), "headers": {JSON_LENGTH: value}}


def with_inputs(*inputs: Any, **document: Any) -> dict[str, Any]:
    return {"json": {"inputs": list(inputs), **document}}


def with_outputs(*outputs: Any) -> dict[str, Any]:
    return with_inputs(tensor(pixels("red").tolist(), shape=ONE), outputs=list(outputs))


def with_parameters(**parameters: Any) -> dict[str, Any]:
    return with_inputs(tensor(pixels("red").tolist(), shape=ONE), parameters=parameters)


MALFORMED = {
    "empty body": {"content": b""},
    "empty raw body": {"content": b"", "headers": {JSON_LENGTH: "0"}},
    "raw body of another size": {"content": RED[:-1], "headers": {JSON_LENGTH: "0"}},
    "no JSON": {"content": b"no JSON"},
    "JSON list": {"json": []},
    "no inputs": {"json": {}},
    "empty inputs": with_inputs(),
    "inputs that are no objects": with_inputs(1),
    "deep JSON": {"content": b'{"inputs":' + b"[" * 60_000},
    "deeper JSON": {"content": b'{"inputs":' + b"[" * 1_000_000},
    "many items": {"content": b'{"inputs":[' + b"{}," * 70_000 + b"{}]}"},
    "deep data": with_inputs(tensor(json.loads("[" * 500 + "]" * 500), shape=ONE)),
    "deep parameters": with_parameters(x={"y": {"z": 1}}),
    "cut JSON": {"content": json.dumps({"inputs": []}).encode()[:-1]},
    "header no number": with_header("x"),
    "header negative": with_header("-1"),
    "header fraction": with_header("1.5"),
    "header beyond the body": with_header("100000"),
    "header huge": with_header("9" * 30),
    "header empty": with_header(""),
    "header inside the JSON": with_header("10"),
    "header beyond the JSON": with_header(
        str(int(binary(RED, inputs=[tensor(shape=ONE)])["headers"][JSON_LENGTH]) + 1)
    ),
    "size too small": sized(len(RED) - 1),
    "size too large": sized(len(RED) + 1),
    "bytes after the sizes": sized(len(RED), RED + b"x"),
    "size negative": sized(-len(RED)),
    "size huge": sized(HUGE),
    "size beyond 64 bits": sized(2**70),
    "size fraction": sized(192.5),
    "size text": sized("192"),
    "size boolean": sized(True),
    "size of other content": sized(len(RED) - 1, RED[:-1]),
    "bytes without a size": {
        "content": b'{"inputs":[]}' + RED,
        "headers": {JSON_LENGTH: "13"},
    },
    "sizes that overlap": binary(
        RED,
        inputs=[
            tensor(shape=ONE, parameters={"binary_data_size": len(RED)}),
            tensor(shape=ONE, parameters={"binary_data_size": 1}),
        ],
    ),
    "duplicate inputs": binary(RED, RED, inputs=[tensor(shape=ONE), tensor(shape=ONE)]),
    "another input": binary(RED, inputs=[tensor(shape=ONE, name="image")]),
    "data and size": binary(RED, inputs=[tensor([1], shape=ONE)]),
    "shared memory": with_inputs(
        tensor(shape=ONE, parameters={"shared_memory_region": "a", "shared_memory_byte_size": 1})
    ),
    "another datatype": binary(RED, inputs=[tensor(shape=ONE, datatype="FP32")]),
    "unknown datatype": binary(RED, inputs=[tensor(shape=ONE, datatype="X" * 10_000)]),
    "datatype in lower case": binary(RED, inputs=[tensor(shape=ONE, datatype="uint8")]),
    "another image size": binary(
        np.zeros((1, 4, 4, 3), np.uint8).tobytes(), inputs=[tensor(shape=[1, 4, 4, 3])]
    ),
    "channels first": binary(RED, inputs=[tensor(shape=[1, 3, SIZE, SIZE])]),
    "no dimensions": binary(RED, inputs=[tensor(shape=[])]),
    "many dimensions": binary(RED, inputs=[tensor(shape=[1] * 1000)]),
    "negative dimension": binary(RED, inputs=[tensor(shape=[-1, SIZE, SIZE, 3])]),
    "fractional dimension": binary(RED, inputs=[tensor(shape=[1.5, SIZE, SIZE, 3])]),
    "dimension beyond 64 bits": binary(RED, inputs=[tensor(shape=[2**64, SIZE, SIZE, 3])]),
    "no image": with_inputs(tensor([], shape=[0, SIZE, SIZE, 3])),
    "too few values": with_inputs(tensor([1, 2, 3], shape=ONE)),
    "uneven lists": with_inputs(tensor([[1, 2], [3]], shape=ONE)),
    "values above 255": with_inputs(tensor([256] * len(RED), shape=ONE)),
    "values below 0": with_inputs(tensor([-1] * len(RED), shape=ONE)),
    "huge values": with_inputs(tensor([2**70] * len(RED), shape=ONE)),
    "fractions": with_inputs(tensor([0.5] * len(RED), shape=ONE)),
    "booleans": with_inputs(tensor([True] * len(RED), shape=ONE)),
    "text as pixels": with_inputs(tensor(["1"] * len(RED), shape=ONE)),
    "null as pixels": with_inputs(tensor([None] * len(RED), shape=ONE)),
    "long list above 255": with_inputs(tensor([999] * 10_000, shape=ONE)),
    "long list of large numbers": with_inputs(tensor([12345] * 10_000, shape=ONE)),
    "long list without commas": {
        "content": json.dumps({"inputs": [tensor([7] * 10_000, shape=ONE)]})
        .replace(",", " ", 9_000)
        .encode()
    },
    "long list as BYTES": with_inputs(tensor([7] * 10_000, shape=[10_000], datatype="BYTES")),
    "BYTES of numbers": with_inputs(tensor([7], shape=[1], datatype="BYTES")),
    "BYTES without base64": with_inputs(tensor(["!"], shape=[1], datatype="BYTES")),
    "BYTES with fewer elements": with_inputs(tensor(["AAAA"], shape=[2], datatype="BYTES")),
    "BYTES of three dimensions": with_inputs(tensor(["AAAA"], shape=[1, 1, 1], datatype="BYTES")),
    "binary BYTES cut": binary(
        bytes_tensor(JPEG)[:-1], inputs=[tensor(shape=[1], datatype="BYTES")]
    ),
    "binary BYTES cut in a length": binary(
        bytes_tensor(JPEG)[:3], inputs=[tensor(shape=[1], datatype="BYTES")]
    ),
    "binary BYTES with a huge length": binary(
        b"\xff\xff\xff\xff" + JPEG, inputs=[tensor(shape=[1], datatype="BYTES")]
    ),
    "binary BYTES with more elements": binary(
        bytes_tensor(JPEG, JPEG), inputs=[tensor(shape=[1], datatype="BYTES")]
    ),
    "binary BYTES with an empty element": binary(
        bytes_tensor(b""), inputs=[tensor(shape=[1], datatype="BYTES")]
    ),
    "unknown output": with_outputs({"name": "scores"}),
    "missing output": with_outputs({"name": "embedding"}),
    "output twice": with_outputs({"name": "logits"}, {"name": "logits"}),
    "output without a name": with_outputs({}),
    "ranked labels": with_outputs({"name": "labels", "parameters": {"classification": 1}}),
    "negative classes": with_outputs({"name": "logits", "parameters": {"classification": -1}}),
    "fractional classes": with_outputs({"name": "logits", "parameters": {"classification": 1.5}}),
    "binary_data no boolean": with_outputs({"name": "logits", "parameters": {"binary_data": 1}}),
    "binary_data_output no boolean": with_parameters(binary_data_output="yes"),
    "priority negative": with_parameters(priority=-1),
    "priority text": with_parameters(priority="high"),
    "timeout negative": with_parameters(timeout=-1),
    "timeout boolean": with_parameters(timeout=True),
    "parameter list": with_parameters(x=[]),
    "id no text": with_inputs(tensor(pixels("red").tolist(), shape=ONE), id=7),
    "long id": with_inputs(tensor(pixels("red").tolist(), shape=ONE), id="x" * 1001),
    "very long id": with_inputs(tensor(pixels("red").tolist(), shape=ONE), id="x" * 1_000_000),
}


def test_whole_numbers_may_have_a_fraction_of_zero(client: httpx.Client) -> None:
    """JSON has one kind of number, and some languages write 1.0 for 1."""
    request = binary(
        RED,
        inputs=[
            tensor(shape=[1.0, SIZE, SIZE, 3.0], parameters={"binary_data_size": float(len(RED))})
        ],
        parameters={"timeout": 30_000_000.0, "priority": 1.0},
        id="x" * 1000,
    )
    response = client.post(URL, **request)
    assert (response.status_code, response.json()["id"]) == (200, "x" * 1000)


@pytest.mark.parametrize("request_", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_gets_a_message(client: httpx.Client, request_: dict[str, Any]) -> None:
    """400 and `error` alone, of bounded length."""
    response = client.post(URL, **request_)
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    (message,) = response.json().values()
    assert list(response.json()) == ["error"]
    assert 10 < len(message) < 1100


@pytest.fixture(scope="module")
def loaded(colour_store: ModelStore) -> Iterator[LoadedVersion]:
    registry = Registry(colour_store, options)
    reconcile(registry)
    yield registry.find(MODEL)
    registry.close()


def check_read(headers: dict[str, str], body: bytes, loaded: LoadedVersion) -> None:
    result: object
    try:
        result = read_infer_request(headers, body, loaded, 64)
    except ServiceError as error:
        result = error
    assert isinstance(result, InferRequest) or result.status in {400, 413}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
shapes = st.lists(st.integers(-1, 2**65) | st.sampled_from([1, 2, 3, SIZE]), max_size=5)
tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["images", "x"]) | json_values,
        "shape": shapes | json_values,
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]) | json_values,
    },
    optional={
        "data": json_values | st.just(pixels("red").tolist()),
        "parameters": json_values
        | st.fixed_dictionaries({"binary_data_size": st.integers(-5, 500) | json_values}),
    },
)
documents = json_values | st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={"outputs": json_values, "parameters": json_values, "id": json_values},
)
lengths = st.integers(-3, 3).map(lambda shift: ("shift", shift)) | st.text(max_size=6).map(
    lambda text: ("text", text)
)


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(document=documents, rest=st.binary(max_size=400), length=lengths)
def test_any_request_is_read_or_gets_an_error_of_the_client(
    loaded: LoadedVersion, document: Any, rest: bytes, length: tuple[str, Any]
) -> None:
    """Nothing else is raised, for whatever JSON, bytes and header."""
    text = json.dumps(document).encode()
    kind, value = length
    header = str(len(text) + value) if kind == "shift" else value
    check_read({JSON_LENGTH.lower(): header}, text + rest, loaded)


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    start=st.sampled_from([b"", b'{"inputs":[{"data":[', b'{"inputs":[{"name":"images",']),
    body=st.binary(max_size=300),
    header=st.none() | st.just("0") | st.just("2"),
)
def test_any_bytes_are_read_or_get_an_error_of_the_client(
    loaded: LoadedVersion, start: bytes, body: bytes, header: str | None
) -> None:
    """Also without the header, and as a raw request."""
    headers = {} if header is None else {JSON_LENGTH.lower(): header}
    check_read(headers, start + body, loaded)
