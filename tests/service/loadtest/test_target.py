"""The URLs, requests and images of `bench`."""

import io
from pathlib import Path

import pytest
from colour_model import plain
from PIL import Image as PillowImage
from starlette.datastructures import Headers

from model_store.image_header import sniff
from service.http.request_body import find_body_kind
from service.http.request_body import read_images as read_body
from service.loadtest import target as targets
from service.loadtest.connection import Address
from service.loadtest.errors import MeasurementError
from service.loadtest.target import (
    SampleImage,
    builtin_image,
    make_requests,
    parse_target,
    read_images,
)

TARGET = parse_target("http://test:8000", None, {"Authorization": "Bearer key"})


@pytest.mark.parametrize(
    ("url", "model", "address", "path"),
    [
        ("http://127.0.0.1:8000", None, Address("127.0.0.1", 8000), "/v1/predict"),
        ("127.0.0.1:8000/", "colours", Address("127.0.0.1", 8000), "/v1/models/colours/predict"),
        ("http://[::1]:8000", None, Address("::1", 8000), "/v1/predict"),
        (
            "https://example.org",
            "a b",
            Address("example.org", 443, tls=True),
            "/v1/models/a%20b/predict",
        ),
        (
            "http://example.org/predict?top_k=1",
            None,
            Address("example.org", 80),
            "/predict?top_k=1",
        ),
        ("http://example.org?top_k=1", None, Address("example.org", 80), "/v1/predict?top_k=1"),
    ],
)
def test_address_and_route_come_from_the_url(
    url: str, model: str | None, address: Address, path: str
) -> None:
    """A URL without a path means this service's route; a path is used as it is."""
    target = parse_target(url, model, {})
    assert (target.address, target.path) == (address, path)


def test_password_in_a_url_is_not_sent_as_the_host() -> None:
    """User and password are removed from the Host header."""
    assert (
        parse_target("http://user:secret@example.org", None, {}).url
        == "http://example.org/v1/predict"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host",
        "http://",
        "http://a b",
        "http://host\r\nX: y",
        "http://host:port",
        "http://[::1",
    ],
)
def test_invalid_url_is_rejected(url: str) -> None:
    """This includes a URL that would inject a header."""
    with pytest.raises(MeasurementError, match="not a valid URL"):
        parse_target(url, None, {})


@pytest.mark.parametrize(
    ("images", "each", "expected"),
    [(1, 1, [1]), (3, 1, [1, 1, 1]), (3, 2, [2, 2, 2]), (2, 4, [4]), (1, 3, [3])],
)
def test_requests_cycle_through_the_images(images: int, each: int, expected: list[int]) -> None:
    """The service's own parser reads every image equally often, in order."""
    sent = [
        SampleImage(str(number), plain("red", size=(16, 10 + number))) for number in range(images)
    ]
    requests = make_requests(TARGET, sent, each)
    assert [request.images for request in requests] == expected
    received = []
    for request in requests:
        head, _, body = request.data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = Headers(dict(line.split(": ", 1) for line in lines))
        assert first == "POST /v1/predict HTTP/1.1"
        assert headers["authorization"] == "Bearer key"
        assert int(headers["content-length"]) == len(body)
        kind = find_body_kind(headers, body)
        received += read_body(headers, body, each, kind).images
    assert received == [sent[number % images].data for number in range(sum(expected))]


def test_large_folder_is_sampled_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample covers the whole list of files."""
    monkeypatch.setattr(targets, "MAX_IMAGES", 4)
    for number in range(10):
        (tmp_path / f"{number}.png").write_bytes(plain("red"))
    assert [image.name for image in read_images([tmp_path])] == ["0.png", "3.png", "6.png", "9.png"]


def test_images_and_requests_are_bounded_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end at the bound, but there is always one image and one request."""
    monkeypatch.setattr(targets, "MAX_BYTES", 150)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(plain("red") + bytes(100))
    assert [image.name for image in read_images([tmp_path])] == ["0.png"]
    assert (
        len(
            make_requests(TARGET, [SampleImage(str(number), bytes(10)) for number in range(3)], 100)
        )
        == 1
    )


@pytest.mark.parametrize(("side", "kind"), [(None, "PNG"), (32, "PNG"), (224, "JPEG")])
def test_builtin_image_fits_the_input(side: int | None, kind: str) -> None:
    """A small PNG for a small input, a large JPEG for a large one."""
    image = builtin_image(side)
    assert sniff(image.data) == kind
    with PillowImage.open(io.BytesIO(image.data)) as opened:
        assert (min(opened.size) > 224) == (kind == "JPEG")
