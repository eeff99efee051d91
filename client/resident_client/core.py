"""The core of both clients: which requests to send, and what their responses mean.

A call of the API is a generator that does no input or output. It yields steps and receives their
outcomes, so that `Client` and `AsyncClient` differ only in how they do a step.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic
from urllib.parse import quote

import httpx

from resident_client.errors import ConnectionFailedError, ImageInputError, ResponseError
from resident_client.images import ImageInput, is_url
from resident_client.options import EmbedOptions, image_route
from resident_client.responses import image_failures, read_error, read_json
from resident_client.results import (
    ImageFailure,
    fail_embedding,
    fail_result,
    read_embedding,
    read_result,
)
from resident_client.steps import Download, Encode, Flow, Send, T, Wait

MAX_REQUEST_BYTES: Final = 16 * 1024 * 1024
"""Larger batches are sent in two halves. The service's default limit is twice that."""
RETRIED_STATUSES: Final = frozenset({429, 502, 503})
FIRST_WAIT_SECONDS: Final = 0.25
UNREADABLE: Final = "unreadable_input"


@dataclass(frozen=True)
class Operation(Generic[T]):
    """What to do with images.

    Attributes:
        action: The route, as in `ACTIONS`.
        read: Reads one entry of a response, given the model and the version.
        fail: Makes the outcome of an image that was not sent.
    """

    action: str
    read: Callable[[str, int, dict[str, Any]], T]
    fail: Callable[[ImageFailure], T]


PREDICT: Final = Operation("predict", read_result, fail_result)
EMBED: Final = Operation("embed", read_embedding, fail_embedding)


class Core:
    """Builds requests, retries them and reads their responses.

    Args:
        api_key: Sent with each request to the service.
        retries: How often a request is sent again after 429, 502, 503 or a failed connection.
        max_wait_seconds: If `Retry-After` is longer, the error is raised at once.
    """

    def __init__(self, api_key: str | None, retries: int, max_wait_seconds: float) -> None:
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._retries = retries
        self._max_wait_seconds = max_wait_seconds

    def models(self) -> Flow[list[dict[str, Any]]]:
        """List the models."""
        response = yield from self._send(Send("GET", "/v1/models"))
        models: list[dict[str, Any]] = read_json(response)["models"]
        return models

    def model(self, name: str) -> Flow[dict[str, Any]]:
        """Show a model."""
        response = yield from self._send(Send("GET", f"/v1/models/{quote(name, safe='')}"))
        return read_json(response)

    def ready(self) -> Flow[bool]:
        """Whether the service may receive traffic. False too if it cannot be reached."""
        try:
            response = yield Send("GET", "/health/ready")
        except httpx.TransportError:
            return False
        return bool(response.status_code == httpx.codes.OK)

    def process(
        self, operation: Operation[T], images: Sequence[ImageInput], options: EmbedOptions
    ) -> Flow[list[T]]:
        """Send images in as few requests as possible. A bad image has its error in its place.

        Raises:
            ResponseError: The service rejected the request as a whole.
        """
        loaded: list[bytes | ImageFailure] = []
        for image in images:
            loaded.append((yield from self._encode(image)))  # noqa: PERF401  cannot yield there
        encoded = [image for image in loaded if isinstance(image, bytes)]
        outcomes: Iterator[T] = iter(())
        if encoded:
            outcomes = iter((yield from self._process_encoded(operation, encoded, options)))
        return [
            operation.fail(image) if isinstance(image, ImageFailure) else next(outcomes)
            for image in loaded
        ]

    def process_one(
        self, operation: Operation[T], image: ImageInput, options: EmbedOptions
    ) -> Flow[T]:
        """Send one image. Raises ImageInputError or ResponseError if it has no outcome."""
        encoded = yield from self._encode(image)
        if isinstance(encoded, ImageFailure):
            raise ImageInputError(encoded.detail)
        response = yield from self._send(_image_request(operation.action, [encoded], options))
        (outcome,) = _read_outcomes(operation, response)
        return outcome

    def _process_encoded(
        self, operation: Operation[T], images: list[bytes], options: EmbedOptions
    ) -> Flow[list[T]]:
        several = len(images) > 1
        if several and sum(map(len, images)) > MAX_REQUEST_BYTES:
            return (yield from self._process_halves(operation, images, options))
        try:
            response = yield from self._send(_image_request(operation.action, images, options))
        except ResponseError as error:
            if several and error.code in {"body_too_large", "too_many_images"}:
                return (yield from self._process_halves(operation, images, options))
            if failures := image_failures(error, len(images)):
                return [operation.fail(failure) for failure in failures]
            raise
        return _read_outcomes(operation, response)

    def _process_halves(
        self, operation: Operation[T], images: list[bytes], options: EmbedOptions
    ) -> Flow[list[T]]:
        half = len(images) // 2
        first = yield from self._process_encoded(operation, images[:half], options)
        second = yield from self._process_encoded(operation, images[half:], options)
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
                failure = read_error(response)
                wait = wait if failure.retry_after is None else failure.retry_after
                if (
                    response.status_code not in RETRIED_STATUSES
                    or attempt >= self._retries
                    or wait > self._max_wait_seconds
                ):
                    raise failure
            yield Wait(wait)
        raise AssertionError  # the loop always returns or raises


def _image_request(action: str, images: Sequence[bytes], options: EmbedOptions) -> Send:
    path, query = image_route(action, options)
    if len(images) == 1:
        headers = {"Content-Type": "application/octet-stream"}
        return Send("POST", path, query, headers, content=images[0])
    files = [
        ("images", (f"image-{number}", image, "application/octet-stream"))
        for number, image in enumerate(images)
    ]
    return Send("POST", path, query, files=files)


def _read_outcomes(operation: Operation[T], response: httpx.Response) -> list[T]:
    document = read_json(response)
    return [
        operation.read(document["model"], document["version"], entry)
        for entry in document["results"]
    ]


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def split_batches(images: Iterable[ImageInput], size: int) -> Iterator[list[ImageInput]]:
    """Split into lists of `size`; the last one may be shorter."""
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
