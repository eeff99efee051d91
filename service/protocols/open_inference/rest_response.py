"""The body of an inference response over HTTP: JSON, and binary tensors after it."""

import asyncio
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import orjson

from service.engine.classification import Classification
from service.engine.loaded_version import LoadedVersion
from service.http.problem_details import Reply
from service.protocols.open_inference.infer_request import InferRequest
from service.protocols.open_inference.outputs import build_output, output_shape
from service.protocols.open_inference.tensors import BYTES, OutputTensor

MAX_NUMBERS_IN_EVENT_LOOP: Final = 20_000
"""The event loop encodes up to so many numbers as JSON, which takes 1 to 2 ms."""


async def encode_infer_response(
    infer: InferRequest, results: Sequence[Classification], loaded: LoadedVersion
) -> Reply:
    """The response. Much JSON is encoded in a thread."""
    encode = partial(_encode, infer, results, loaded)
    widths = (output_shape(output.name, loaded)[1] for output in infer.outputs if not output.binary)
    numbers = len(results) * sum(sum(width) for width in widths)
    return await asyncio.to_thread(encode) if numbers > MAX_NUMBERS_IN_EVENT_LOOP else encode()


def _encode(infer: InferRequest, results: Sequence[Classification], loaded: LoadedVersion) -> Reply:
    document: dict[str, Any] = {
        "model_name": loaded.version.model,
        "model_version": str(loaded.version.number),
    }
    if infer.request_id is not None:
        document["id"] = infer.request_id
    outputs, contents = list[dict[str, Any]](), list[bytes]()
    for requested in infer.outputs:
        tensor = build_output(requested.name, requested.classes, results, loaded)
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        if requested.binary:
            content = tensor.to_bytes()
            output["parameters"] = {"binary_data_size": len(content)}
            contents.append(content)
        else:
            output["data"] = _to_json(tensor)
        outputs.append(output)
    document["outputs"] = outputs
    text = orjson.dumps(document)
    if not any(requested.binary for requested in infer.outputs):
        return Reply(HTTPStatus.OK, text)
    headers = {"inference-header-content-length": str(len(text))}
    body = b"".join([text, *contents])
    return Reply(HTTPStatus.OK, body, headers, "application/octet-stream")


def _to_json(tensor: OutputTensor) -> Any:
    """The elements as a flat list. Row by row, so that other threads run: orjson keeps the GIL."""
    if tensor.datatype == BYTES:
        return [text for row in tensor.rows for text in row]
    rows = (orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1] for row in tensor.rows)
    return orjson.Fragment(b"[" + b",".join(rows) + b"]")
