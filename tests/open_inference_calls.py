"""Calls of the Open Inference Protocol, as a client of KServe makes them."""

import base64
from pathlib import Path

import httpx

IMAGE = (Path(__file__).parents[1] / "docs/images/digit-7.png").read_bytes()


def infer(client: httpx.Client, model: str) -> list[str]:
    """The label of an image that is sent encoded, in JSON."""
    image = base64.b64encode(IMAGE).decode()
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [image]}
    response = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
    assert response.status_code == httpx.codes.OK, response.text
    outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
    labels: list[str] = outputs["labels"]
    return labels
