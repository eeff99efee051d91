"""From bodies to encoded images, without a server."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from colour_model import plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import (
    BadRequestError,
    BodyTimeoutError,
    ServiceError,
    TooLargeError,
    UnsupportedMediaError,
)
from service.http import request_body
from service.http.json_body import JsonBody
from service.http.request_body import (
    BodyLimits,
    check_headers,
    find_body_kind,
    read_body,
    read_images,
)
from service.prediction.request import EncodedImage, RequestImages

RED, GREEN = plain("red"), plain("green")


def images_of(body: bytes, media_type: str = "", max_images: int = 4) -> list[EncodedImage]:
    headers = Headers({"content-type": media_type} if media_type else {})
    return read_images(headers, body, max_images, find_body_kind(headers, body)).images


def refusal(body: bytes, media_type: str) -> ServiceError | None:
    try:
        images_of(body, media_type)
    except ServiceError as error:
        return error
    return None


def json_body(*images: bytes) -> bytes:
    return json.dumps(
        {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}
    ).encode()


def multipart(*images: bytes, field: str = "images") -> tuple[bytes, str]:
    request = httpx.Request(
        "POST",
        "http://test",
        files=[(field, (f"{number}.png", image)) for number, image in enumerate(images)],
    )
    return request.read(), request.headers["content-type"]


@pytest.mark.parametrize("images", [[RED], [RED, GREEN], [GREEN, RED, GREEN, RED]])
def test_images_are_read_unchanged(images: list[bytes]) -> None:
    """JSON and multipart bodies give the same bytes in the same order."""
    assert images_of(json_body(*images), "application/json; charset=utf-8") == images
    assert images_of(*multipart(*images)) == images


@pytest.mark.parametrize(
    "media_type",
    ["", "image/png", "image/jpeg", "application/json", "text/plain", "multipart/form-data"],
)
def test_body_that_starts_like_an_image_is_one(media_type: str) -> None:
    """The media type is ignored if the first bytes are those of an image."""
    assert images_of(RED, media_type) == [RED]


@pytest.mark.parametrize("prefix", ["data:image/png;base64,", "data:;base64,"])
def test_data_urls_are_accepted(prefix: str) -> None:
    """A browser's FileReader returns data: URLs."""
    body = {"images": [{"b64": prefix + base64.b64encode(RED).decode()}]}
    assert images_of(json.dumps(body).encode(), "application/json") == [RED]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("####", "malformed_base64"),
        ("QUJDQ", "malformed_base64"),
        ("QUI=QUJD", "malformed_base64"),
        ("QU=I", "malformed_base64"),
        ("QUJD.QUJD", "malformed_base64"),
        ("é", "malformed_base64"),
        ("", "empty_image"),
        ("data:image/png;base64,", "empty_image"),
        ("data:", "empty_image"),
    ],
)
def test_malformed_base64_is_an_error_in_its_place(text: str, code: str) -> None:
    """The other images of the request are read."""
    body = json.dumps({"images": [{"b64": base64.b64encode(RED).decode()}, {"b64": text}]}).encode()
    good, bad = images_of(body, "application/json")
    assert good == RED
    assert isinstance(bad, BadRequestError)
    assert bad.code == code


TYPES = [
    "application/json",
    "multipart/form-data; boundary=B",
    "multipart/form-data; boundary=B; charset=idna",
    "text/x",
]


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.binary(max_size=300), media_type=st.sampled_from(TYPES))
def test_any_body_is_read_or_rejected_with_a_status(body: bytes, media_type: str) -> None:
    """Any bytes with any media type raise nothing but a ServiceError."""
    error = refusal(body, media_type)
    assert error is None or 400 <= error.status < 500


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_multipart_is_read_or_rejected_with_a_status(data: st.DataObject) -> None:
    """A multipart body with any byte changed raises nothing but a ServiceError."""
    body, media_type = multipart(RED, GREEN)
    position = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:position] + bytes([data.draw(st.integers(0, 255))]) + body[position + 1 :]
    error = refusal(damaged, media_type)
    assert error is None or 400 <= error.status < 500


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.6, 0.9, 0.99])
def test_truncated_multipart_is_rejected(kept: float) -> None:
    """Without the closing boundary, an image that was cut off would be lost silently."""
    body, media_type = multipart(RED, GREEN)
    with pytest.raises(BadRequestError) as caught:
        images_of(body[: int(len(body) * kept)], media_type)
    assert caught.value.code == "malformed_multipart"


@pytest.mark.parametrize(
    "headers",
    [
        {"content-encoding": "gzip"},
        {"content-encoding": "br"},
        {"content-encoding": "gzip, identity"},
    ],
)
def test_bodies_with_a_content_coding_are_rejected(headers: dict[str, str]) -> None:
    """A compressed body could expand without bound."""
    with pytest.raises(UnsupportedMediaError):
        check_headers(Headers(headers), 100)


@pytest.mark.parametrize(
    "headers", [{}, {"content-encoding": "identity"}, {"content-encoding": "Identity"}]
)
def test_bodies_without_a_content_coding_are_accepted(headers: dict[str, str]) -> None:
    """No header and `identity` in any case are the same (RFC 9110, 8.4.1)."""
    check_headers(Headers(headers | {"content-length": "100"}), 100)


def test_content_length_over_the_limit_is_rejected() -> None:
    """One byte over the limit is rejected by the header."""
    with pytest.raises(TooLargeError):
        check_headers(Headers({"content-length": "101"}), 100)


@pytest.mark.parametrize("item", ["1", "{}", "[]", '{"x": 1}', '{"b64": ""}'])
def test_json_body_with_too_many_items_is_rejected_before_parsing(
    item: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of small items would become gigabytes of objects."""
    monkeypatch.setattr(JsonBody, "model_validate", lambda _: pytest.fail("it was parsed"))
    body = f'{{"images": [{",".join([item] * 100_000)}]}}'.encode()
    with pytest.raises((BadRequestError, TooLargeError)) as caught:
        images_of(body, "application/json")
    assert caught.value.code == ("too_many_images" if "b64" in item else "malformed_json")


def request_with(chunks: AsyncIterator[bytes]) -> Request:
    async def receive() -> dict[str, object]:
        try:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_body_is_not_read_past_the_limit() -> None:
    """Reading stops at the chunk that exceeds the limit."""
    chunks_read = []

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(100):
            chunks_read.append(number)
            yield b"x" * 10

    with pytest.raises(TooLargeError):
        asyncio.run(read_body(request_with(chunks()).receive, 25, 60))
    assert chunks_read == [0, 1, 2]


def test_body_that_stops_arriving_is_a_timeout() -> None:
    """The 408 says how many bytes arrived."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"12345"
        await asyncio.Event().wait()

    with pytest.raises(BodyTimeoutError, match="5 bytes"):
        asyncio.run(read_body(request_with(chunks()).receive, 100, 0.01))


def test_hostile_form_is_refused_quickly() -> None:
    """Parts and beginnings of boundaries are counted, not parsed: 32 MB took 5.9 s."""
    media_type = "multipart/form-data; boundary=" + "x" * 60
    for body, code in (
        (b"\r\n--x" * 500_000 + b" " * 4_000_000, "malformed_multipart"),
        (b"\r\n--" + b"x" * 60 + b"\r\n--x" * 1_000_000, "malformed_multipart"),
        ((b"\r\n--" + b"x" * 60) * 100_000, "too_many_images"),
        (b"--" + b"x" * 60 + b"\r\n" + b"a: b\r\n" * 1_000_000, "malformed_multipart"),
    ):
        started = time.process_time()
        error = refusal(body, media_type)
        assert error is not None
        assert error.code == code
        assert time.process_time() - started < 1.0
    error = refusal(b"--x", 'multipart/form-data; boundary="' + ";" * 60_000)
    assert error is not None
    assert error.code == "malformed_multipart"


def test_parts_of_a_form_may_be_written_in_other_ways() -> None:
    """A preamble, an epilogue, spaces after a boundary, base64, names in any case (RFC 2046)."""
    body = (
        b"preamble\r\n--B  \r\nCONTENT-DISPOSITION: form-data; filename=a; name=images\r\n\r\n"
        + RED
        + b'\r\n--B\r\nContent-Disposition: form-data; name="images"; filename="b"\r\n'
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(GREEN)
        + b"\r\n--B--\r\nepilogue\r\n--B\r\n"
    )
    assert images_of(body, "multipart/form-data; boundary=B") == [RED, GREEN]


@pytest.mark.parametrize(
    "text", ["QUI=" + "QUJD" * 300_000, "QUJD" * 300_000 + "Q", "QUJD" * 262_144 + "=QUJ"]
)
def test_long_base64_is_checked_as_a_whole(text: str) -> None:
    """It is decoded in slices, and padding is valid only at its end."""
    error = images_of(json.dumps({"images": [{"b64": text}]}).encode(), "application/json")[0]
    assert isinstance(error, BadRequestError)
    assert error.code == "malformed_base64"


@pytest.mark.anyio
async def test_large_bodies_are_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on; raw images and small bodies need no thread."""
    threads: list[threading.Thread] = []
    read = request_body.read_images

    def read_recorded(*arguments: Any) -> RequestImages:
        threads.append(threading.current_thread())
        return read(*arguments)

    monkeypatch.setattr(request_body, "read_images", read_recorded)
    large = RED + bytes(200_000)
    form, form_type = multipart(large)
    for body, media_type in (
        (large, ""),
        (json_body(RED), "application/json"),
        (json_body(large), "application/json"),
        (form, form_type),
    ):
        await request_body.parse_body(
            {"content-type": media_type}, body, BodyLimits(4, 1_000_000), lambda _: None
        )
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, True, False, False]
