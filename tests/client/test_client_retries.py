"""When the client sends a request again, and how long it waits before. No test waits itself."""

import email.utils
import time
from typing import Any

import httpx
import pytest
from pictures import encoded, picture
from resident_client import AsyncClient, Client, ConnectionFailedError, ResponseError
from resident_client.core import PREDICT, Core
from resident_client.steps import Encode, Send, Wait
from server_process import ServerProcess

ANSWER = {
    "model": "m",
    "version": 1,
    "results": [{"predictions": [{"label": "a", "index": 0, "score": 1.0}]}],
}
OK = httpx.Response(200, json=ANSWER)


def waits(*outcomes: httpx.Response | Exception, retries: int = 3) -> tuple[list[float], Any]:
    """The seconds that the core waits for between these outcomes, and its result or error."""
    flow = Core("key", retries, max_wait_seconds=60).process_one(PREDICT, b"image", {"model": "m"})
    remaining, waited, step = list(outcomes), list[float](), next(flow)
    try:
        while True:
            match step:
                case Encode():
                    step = flow.send(b"image")
                case Wait():
                    waited.append(step.seconds)
                    step = flow.send(None)
                case Send():
                    outcome = remaining.pop(0)
                    failed = isinstance(outcome, Exception)
                    step = flow.throw(outcome) if failed else flow.send(outcome)
    except StopIteration as done:
        assert not remaining
        return waited, done.value
    except (ResponseError, ConnectionFailedError) as error:
        assert not remaining
        return waited, error


@pytest.mark.parametrize("status", [429, 502, 503])
def test_retry_after_is_waited_for(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "7"})
    waited, result = waits(busy, busy, OK)
    assert waited == [7, 7]
    assert result.label == "a"


def test_retry_after_may_be_a_date() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    (waited,), _ = waits(httpx.Response(503, headers={"Retry-After": date}), OK)
    assert 0 < waited <= 30


def test_without_retry_after_each_wait_is_longer_on_average() -> None:
    """With a random part, so that many clients do not come back at the same time."""
    waited, _ = waits(*[httpx.Response(503)] * 3, OK)
    for seconds, base in zip(waited, (0.25, 0.5, 1.0), strict=True):
        assert base / 2 <= seconds <= base * 1.5


def test_a_wait_that_is_too_long_is_an_error_at_once() -> None:
    waited, error = waits(httpx.Response(429, headers={"Retry-After": "61"}))
    assert waited == []
    assert error.retry_after == 61


def test_after_the_last_retry_the_error_is_raised() -> None:
    waited, error = waits(*[httpx.Response(429, headers={"Retry-After": "1"})] * 3, retries=2)
    assert waited == [1, 1]
    assert (error.status, error.code) == (429, "http_error")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 500, 504])
def test_other_errors_are_not_retried(status: int) -> None:
    waited, error = waits(httpx.Response(status, json={"code": "some_code", "detail": "why"}))
    assert waited == []
    assert (error.status, error.code, error.detail) == (status, "some_code", "why")


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError("refused"), httpx.ConnectTimeout(""), httpx.ReadError("reset")]
)
def test_a_failed_connection_is_retried(failure: Exception) -> None:
    waited, result = waits(failure, OK)
    assert len(waited) == 1
    assert result.label == "a"
    assert isinstance(waits(failure, retries=0)[1], ConnectionFailedError)


def test_a_response_that_takes_too_long_is_not_asked_for_again() -> None:
    """The service would do the work twice."""
    waited, error = waits(httpx.ReadTimeout("timed out"))
    assert waited == []
    assert isinstance(error, ConnectionFailedError)


def test_a_response_of_something_else_is_an_error_with_a_hint() -> None:
    _, error = waits(httpx.Response(200, text="<html>"))
    assert error.code == "unexpected_response"


class BusyOnce(httpx.HTTPTransport):
    """The real transport, behind a proxy that answers the first request itself."""

    asked = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked == 1:
            return httpx.Response(503, headers={"Retry-After": "0"})
        return super().handle_request(request)


class AsyncBusyOnce(httpx.AsyncHTTPTransport):
    asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.asked == 1:
            return httpx.Response(503, headers={"Retry-After": "0"})
        return await super().handle_async_request(request)


@pytest.mark.anyio
async def test_both_clients_retry(server: ServerProcess) -> None:
    image, transport = encoded(picture(0)), BusyOnce()
    with Client(server.address, transport=transport) as client:
        expected = client.predict(image)
    assert transport.asked == 2
    async_transport = AsyncBusyOnce()
    async with AsyncClient(server.address, transport=async_transport) as async_client:
        assert await async_client.predict(image) == expected
    assert async_transport.asked == 2
