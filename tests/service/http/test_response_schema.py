"""Real responses of the prediction routes against the OpenAPI document."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from colour_model import MODEL, encode, make_store, plain, publish
from PIL import Image
from server_process import running

from model_store.manifest import Calibration

RED = plain("red")
DARK = encode(Image.new("RGB", (8, 8), (10, 8, 12)))  # far from every colour
CALIBRATION = Calibration(energy_threshold=-4.0, conformal_thresholds={"0.9": 0.2})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with a model that abstains and has prediction sets, and one without calibration."""
    root: Path = tmp_path_factory.mktemp("schema") / "store"
    store = make_store(root)
    publish(store, calibration=CALIBRATION)
    publish(store, "plain", embedding=True)
    with running("--store", root, "--no-builtin", "--default-model", MODEL) as server:
        server.announced()
        with server.client() as client:
            yield client


@pytest.fixture(scope="module")
def document(calibrated: httpx.Client) -> dict[str, Any]:
    """The OpenAPI document, in which no object may have a property that is not declared."""
    document: dict[str, Any] = calibrated.get("/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        if schema.get("type") == "object":
            schema.setdefault("additionalProperties", False)
    return document


def check(document: dict[str, Any], response: httpx.Response, path: str = "/v1/predict") -> Any:
    """Validate a response against what the document says of its route, status and media type."""
    responses = document["paths"][path]["post"]["responses"]
    content = responses[str(response.status_code)]["content"]
    media_type = response.headers["content-type"]
