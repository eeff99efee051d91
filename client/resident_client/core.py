"""The core of both clients: which requests to send, and what their responses mean.

A call of the API is a generator that does no input or output. It yields steps and receives their
outcomes, so that `Client` and `AsyncClient` differ only in how they do a step.
"""

import email.utils
import itertools
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote

import httpx

from resident_client.errors import ConnectionFailedError, ImageInputError, ResponseError
from resident_client.images import ImageInput, is_url
from resident_client.options import PredictOptions, predict_route
from resident_client.results import ImageFailure, Result, read_failure, read_result
from resident_client.steps import Download, Encode, Flow, Send, Wait

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Larger batches are sent in two halves. The service's default limit is twice that."""
RETRIED_STATUSES: Final = frozenset({429, 502, 503})
FIRST_WAIT_SECONDS: Final = 0.25
UNREADABLE: Final = "unreadable_input"
_IMAGE_STATUSES: Final = frozenset({400, 413, 415})
_REQUEST_CODES: Final = frozenset({"invalid_parameter", "no_label_sets"})
"""Codes with these statuses that say nothing about the image."""


class Core:
    """Builds requests, retries them and reads their responses.

    Args:
        api_key: Sent with each request to the service.
        retries: How often a request is sent again after 429, 502, 503 or a failed connection.
        max_wait_seconds: A longer `Retry-After` is not waited for; the error is raised instead.
    """

    def __init__(self, api_key: str | None, retries: int, max_wait_seconds: float) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._retries = retries
        self._max_wait_seconds = max_wait_seconds

    def models(self) -> Flow[list[dict[str, Any]]]:
        """List the models."""
        response = yield from self._send(Send("GET", "/v1/models"))
        models: list[dict[str, Any]] = _read_json(response)["models"]
        return models

    def model(self, name: str) -> Flow[dict[str, Any]]:
        """Show a model."""
        response = yield from self._send(Send("GET", f"/v1/models/{quote(name, safe='')}"))
        return _read_json(response)

    def ready(self) -> Flow[bool]:
        """Whether the service may receive traffic. False too if it cannot be reached."""
        try:
            response = yield Send("GET", "/health/ready")
        except httpx.TransportError:
            return False
        return bool(response.status_code == httpx.codes.OK)

    def predict(self, images: Sequence[ImageInput], options: PredictOptions) -> Flow[list[Result]]:
        """Classify images in as few requests as possible. A bad image has its error in its place.

        Raises:
            ResponseError: The service rejected the request as a whole.
        """
        outcomes: list[bytes | ImageFailure] = []
        for image in images:
            outcomes.append((yield from self._encode(image)))  # noqa: PERF401  cannot yield there
        encoded = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
        results = iter((yield from self._predict_encoded(encoded, options)) if encoded else [])
        return [
            Result("", 0, error=outcome) if isinstance(outcome, ImageFailure) else next(results)
            for outcome in outcomes
        ]

    def predict_one(self, image: ImageInput, options: PredictOptions) -> Flow[Result]:
        """Classify an image. Raises ImageInputError or ResponseError if it has no result."""
        encoded = yield from self._encode(image)
        if isinstance(encoded, ImageFailure):
            raise ImageInputError(encoded.detail)
        response = yield from self._send(_predict_request([encoded], options))
        (result,) = _read_results(response)
        return result

    def _predict_encoded(self, images: list[bytes], options: PredictOptions) -> Flow[list[Result]]:
        several = len(images) > 1
        if several and sum(map(len, images)) > MAX_REQUEST_BYTES:
            return (yield from self._predict_halves(images, options))
        try:
            response = yield from self._send(_predict_request(images, options))
        except ResponseError as error:
            if several and error.code in {"body_too_large", "too_many_images"}:
                return (yield from self._predict_halves(images, options))
            if failures := _image_failures(error, len(images)):
                return [Result("", 0, error=failure) for failure in failures]
            raise
        return _read_results(response)

    def _predict_halves(self, images: list[bytes], options: PredictOptions) -> Flow[list[Result]]:
        half = len(images) // 2
        first = yield from self._predict_encoded(images[:half], options)
        second = yield from self._predict_encoded(images[half:], options)
        return first + second

    def _encode(self, image: ImageInput) -> Flow[bytes | ImageFailure]:
        if not is_url(image):
            try:
                encoded: bytes = yield Encode(image)
            except ImageInputError as error:
                return ImageFailure(UNREADABLE, str(error))
            return encoded
        try:
            response: httpx.Response = yield Download(image)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return ImageFailure(UNREADABLE, f"{image} cannot be downloaded: {_describe(error)}")
        if not response.is_success:
            return ImageFailure(UNREADABLE, f"{image} answers {response.status_code}")
        return response.content

    def _send(self, request: Send) -> Flow[httpx.Response]:
        """Send a request until it succeeds, fails for good or has no retries left."""
        request = replace(request, headers={**self._headers, **request.headers})
        for attempt in itertools.count():
            wait = FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311
            try:
                response: httpx.Response = yield request
            except httpx.TransportError as error:
                timed_out = isinstance(error, httpx.TimeoutException)
                if attempt >= self._retries or (
                    timed_out and not isinstance(error, httpx.ConnectTimeout)
                ):
                    raise ConnectionFailedError(
                        f"the service does not answer: {_describe(error)}"
                    ) from error
            else:
                if response.is_success:
                    return response
                failure = _read_error(response)
                wait = wait if failure.retry_after is None else failure.retry_after
                if (
                    response.status_code not in RETRIED_STATUSES
                    or attempt >= self._retries
                    or wait > self._max_wait_seconds
                ):
                    raise failure
            yield Wait(wait)
        raise AssertionError  # the loop has no end


def _predict_request(images: Sequence[bytes], options: PredictOptions) -> Send:
    path, query = predict_route("predict", options)
    if len(images) == 1:
        headers = {"Content-Type": "application/octet-stream"}
        return Send("POST", path, query, headers, content=images[0])
    files = [
        ("images", (f"image-{number}", image, "application/octet-stream"))
        for number, image in enumerate(images)
    ]
    return Send("POST", path, query, files=files)


def _read_results(response: httpx.Response) -> list[Result]:
    document = _read_json(response)
    return [
        read_result(document["model"], document["version"], entry) for entry in document["results"]
    ]


def _read_json(response: httpx.Response) -> dict[str, Any]:
    try:
        document = json.loads(response.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ResponseError(
            response.status_code,
            "unexpected_response",
            "expected a JSON object; is this the address of a Resident service?",
        )
    return document


def _image_failures(error: ResponseError, count: int) -> list[ImageFailure]:
    """The failures of the images, if each of them failed; else nothing."""
    if error.errors:
        return [read_failure(entry) for entry in error.errors]
    if count == 1 and error.status in _IMAGE_STATUSES and error.code not in _REQUEST_CODES:
        return [ImageFailure(error.code, error.detail, error.status)]
    return []


def _read_error(response: httpx.Response) -> ResponseError:
    try:
        document = json.loads(response.content)
        code, detail = str(document["code"]), str(document["detail"])
        errors = tuple(document.get("errors", ()))
    except (ValueError, KeyError, TypeError, AttributeError):  # of a proxy, not of the service
        code, detail, errors = "http_error", response.reason_phrase, ()
    return ResponseError(
        response.status_code,
        code,
        detail,
        response.headers.get("X-Request-Id"),
        _retry_after(response.headers.get("Retry-After")),
        errors,
    )


def _retry_after(value: str | None) -> float | None:
    """Read seconds or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def split_batches(images: Iterable[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    """Split into lists of `size`; the last one may be shorter."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
