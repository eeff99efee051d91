"""Inference requests of the Open Inference Protocol, as bytes and headers."""

import json
import struct
from typing import Any

import numpy as np
from colour_model import COLOURS, SIZE

JSON_LENGTH = "Inference-Header-Content-Length"


def pixels(*colours: str) -> np.ndarray:
    """uint8 `[images, SIZE, SIZE, 3]`, each image of one colour."""
    rows = np.array([COLOURS[colour] for colour in colours], np.uint8)
    return np.broadcast_to(rows[:, None, None], (len(colours), SIZE, SIZE, 3)).copy()


def bytes_tensor(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def tensor(
    data: Any = None,
    *,
    shape: list[Any],
    datatype: str = "UINT8",
    name: str = "images",
    **more: Any,
) -> dict[str, Any]:
    own = {"name": name, "shape": shape, "datatype": datatype, **more}
    return own if data is None else {**own, "data": data}


def binary(*contents: bytes, inputs: list[dict[str, Any]], **document: Any) -> dict[str, Any]:
    """Arguments of a POST: JSON, then the contents. Inputs have their size unless it is given."""
    sized = [
        {**each, "parameters": {"binary_data_size": len(content), **each.get("parameters", {})}}
        for each, content in zip(inputs, contents, strict=False)
    ] + inputs[len(contents) :]
    text = json.dumps({"inputs": sized, **document}).encode()
    return {"content": b"".join([text, *contents]), "headers": {JSON_LENGTH: str(len(text))}}


def split_response(content: bytes, json_length: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The JSON of a binary response, and the bytes of each output that has some."""
    document = json.loads(content[: int(json_length)])
    found, position = {}, int(json_length)
    for output in document["outputs"]:
        if size := output.get("parameters", {}).get("binary_data_size"):
            found[output["name"]] = content[position : position + size]
            position += size
    assert position == len(content)
    return document, found
