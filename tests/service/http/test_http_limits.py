"""Limits over real HTTP: bodies, images, pixels, time and overload."""

import base64
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from colour_model import labels, plain
from http_problems import check_problem
from PIL import Image
from server_process import PATIENCE_SECONDS, ServerProcess, read_response, request_head, running

from model_store.store import ModelStore

RED = plain("red")
LIMIT = 50_000  # of limited_server


def colours(*names: str) -> dict[str, Any]:
    return {"json": {"images": [{"b64": base64.b64encode(plain(name)).decode()} for name in names]}}


def test_body_of_exactly_the_limit_is_accepted(limited_client: httpx.Client) -> None:
    """With and without Content-Length."""
    body = RED + bytes(LIMIT - len(RED))
    for content in (body, iter([body])):
        assert labels(limited_client.post("/v1/predict", content=content).json()["results"]) == [
            "red"
        ]


@pytest.mark.parametrize("expect", [{}, {"Expect": "100-continue"}], ids=["plain", "expect"])
def test_content_length_over_the_limit_is_rejected_before_the_body_is_sent(
    limited_server: ServerProcess, expect: dict[str, str]
) -> None:
    """The head is answered with 413, without 100 Continue."""
    with limited_server.connect() as connection:
        connection.sendall(request_head(Content_Length=LIMIT + 1, **expect))
        check_problem(read_response(connection), 413, "body_too_large")


def test_unknown_model_is_rejected_before_the_body_is_sent(limited_server: ServerProcess) -> None:
    """The head is answered with 404."""
    with limited_server.connect() as connection:
        connection.sendall(
            request_head("/v1/models/nobody/predict", Content_Length=1000, Expect="100-continue")
        )
        check_problem(read_response(connection), 404, "model_not_found")


def test_chunked_body_over_the_limit_is_rejected_before_its_end(
    limited_server: ServerProcess,
) -> None:
    """It is rejected at the chunk that exceeds the limit."""
    with limited_server.connect() as connection:
        connection.sendall(request_head(Transfer_Encoding="chunked"))
        chunk = b"x" * 10_000
        for _ in range(6):
            connection.sendall(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        check_problem(read_response(connection), 413, "body_too_large")


def test_more_images_than_the_limit_are_rejected(limited_client: httpx.Client) -> None:
    """As many images as the limit are classified; one more is a 413."""
    assert (
        labels(limited_client.post("/v1/predict", **colours(*["red"] * 4)).json()["results"])
        == ["red"] * 4
    )
    check_problem(
        limited_client.post("/v1/predict", **colours(*["red"] * 5)), 413, "too_many_images"
    )
    check_problem(
        limited_client.post("/v1/predict", files=[("images", ("a.png", RED))] * 5),
        413,
        "too_many_images",
    )


def test_more_pixels_than_the_limit_are_rejected(limited_client: httpx.Client) -> None:
    """The limit is on width times height of one image; the error names both."""
    assert (
        limited_client.post("/v1/predict", content=plain("red", size=(400, 250))).status_code == 200
    )
    response = limited_client.post("/v1/predict", content=plain("red", size=(401, 250)))
    check_problem(response, 413, "too_many_pixels")
    assert "401x250" in response.json()["detail"]


def test_image_of_a_phone_is_classified(client: httpx.Client) -> None:
    """It is decoded in a worker."""
    buffer = io.BytesIO()
    Image.new("RGB", (4000, 3000), (0, 255, 0)).save(buffer, "JPEG")
    assert labels(client.post("/v1/predict", content=buffer.getvalue()).json()["results"]) == [
        "green"
    ]


def test_slow_sender_gets_408(colour_store: ModelStore) -> None:
    """A client that stops sending gets 408; another client is served meanwhile."""
    arguments = (
        "--store",
        colour_store.root,
        "--no-builtin",
        "--body-timeout-seconds",
        "1.5",
    )
    with (
        running(*arguments) as server,
        server.announced().connect() as slow,
        server.connect() as quick,
    ):
        slow.sendall(request_head(Content_Length=1000) + RED[:10])
        quick.sendall(request_head(Content_Length=len(RED)) + RED)
        assert labels(read_response(quick).json()["results"]) == ["red"]
        response = read_response(slow)
        check_problem(response, 408, "slow_body")
        assert "10 bytes" in response.json()["detail"]


def test_overload_is_a_429_with_retry_after(colour_store: ModelStore) -> None:
    """Of two requests that exceed the queue together, one gets 429; the other is answered."""
    arguments = (
        "--max-queue-size",
        3,
        "--max-batch-size",
        3,
        "--max-queue-delay-seconds",
        10,
        "--instances",
        1,
    )
    with running("--store", colour_store.root, "--no-builtin", *arguments) as server:
        server.announced()
        refused: list[httpx.Response] = []
        rejected_one = threading.Event()

        def send() -> httpx.Response:
            with server.client() as client:
                response = client.post("/v1/predict", **colours("red", "green"))
            if response.status_code == 429:
                refused.append(response)
                rejected_one.set()
            return response

        with ThreadPoolExecutor(2) as pool, server.client() as client:
            responses = [pool.submit(send), pool.submit(send)]
            assert rejected_one.wait(PATIENCE_SECONDS)
            company = client.post("/v1/predict", **colours("blue"))
            statuses = sorted(response.result().status_code for response in responses)
        assert statuses == [200, 429]
        check_problem(refused[0], 429, "overloaded")
        assert int(refused[0].headers["retry-after"]) >= 1
        assert labels(company.json()["results"]) == ["blue"]


def test_deadline_is_a_504(colour_store: ModelStore) -> None:
    """A request whose images wait longer than the deadline for a full batch gets 504."""
    arguments = ("--deadline-seconds", "0.2", "--max-queue-delay-seconds", 2, "--instances", 1)
    with (
        running("--store", colour_store.root, "--no-builtin", *arguments) as server,
        server.announced().client() as client,
    ):
        check_problem(client.post("/v1/predict", content=RED), 504, "deadline_exceeded")
        check_problem(
            client.post("/v1/predict", **colours("red", "blue")), 504, "deadline_exceeded"
        )
