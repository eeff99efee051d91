"""`SERVICE_FORMATS`, and HEIC over HTTP."""

from collections.abc import Iterator

import httpx
import pytest
from colour_model import labels, plain
from http_problems import check_problem
from server_process import running

from model_store.heif import load_heif_plugin
from model_store.image_header import FORMATS
from model_store.store import ModelStore


@pytest.fixture(scope="module")
def restricted(colour_store: ModelStore) -> Iterator[httpx.Client]:
    arguments = ("--store", colour_store.root, "--no-builtin", "--formats", "jpeg,webp")
    with running(*arguments) as server, server.announced().client() as client:
        yield client


@pytest.mark.parametrize("image_format", ["JPEG", "WEBP"])
def test_listed_formats_are_accepted(restricted: httpx.Client, image_format: str) -> None:
    response = restricted.post("/v1/predict", content=plain("cyan", image_format))
    assert labels(response.json()["results"]) == ["cyan"]


@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF", "AVIF"])
def test_other_formats_are_unsupported(restricted: httpx.Client, image_format: str) -> None:
    """Small and large, alone and beside others."""
    for size in ((16, 12), (400, 300)):
        image = plain("cyan", image_format, size)
        response = restricted.post("/v1/predict", content=image)
        check_problem(response, 415, "unsupported_image")
    files = [("images", ("a", plain("red", "JPEG"))), ("images", ("b", image))]
    results = restricted.post("/v1/predict", files=files).json()["results"]
    assert labels(results[:1]) == ["red"]
    assert results[1]["error"]["code"] == "unsupported_image"


def test_other_data_is_still_no_image(restricted: httpx.Client) -> None:
    check_problem(restricted.post("/v1/predict", content=b"x"), 400, "not_an_image")


@pytest.mark.skipif("HEIF" not in FORMATS, reason="needs the extra heif")
def test_heic_is_classified(client: httpx.Client, restricted: httpx.Client) -> None:
    load_heif_plugin()
    for size in ((64, 64), (2000, 1500)):
        heic = plain("magenta", "HEIF", size)
        headers = {"content-type": "image/heic"}
        response = client.post("/v1/predict", content=heic, headers=headers)
        assert labels(response.json()["results"]) == ["magenta"]
        response = restricted.post("/v1/predict", content=heic)
        check_problem(response, 415, "unsupported_image")
