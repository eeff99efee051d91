"""The server that `bench` loads, and the requests that it sends there."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from model_store.image_header import sniff
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT
from service.http.request_body import FIELD
from service.loadtest.connection import (
    Address,
    Connection,
    NoResponseError,
    Response,
    connect,
)
from service.loadtest.errors import MeasurementError
from service.loadtest.load_generator import Request

MAX_FILES_CHECKED: Final = 4096
MAX_IMAGES: Final = 256
MAX_BYTES: Final = 256 * 1024 * 1024
"""Limit for all images and for all requests: larger than CPU caches, smaller than memory."""
SMALL_INPUT: Final = 64
_BUILTIN_IMAGES: Final[Mapping[bool, str]] = {True: "colours.png", False: "large.jpg"}


@dataclass(frozen=True)
class Target:
    """A server and the route on it. `headers` are sent with every request."""

    address: Address
    authority: str
    path: str
    headers: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"{'https' if self.address.tls else 'http'}://{self.authority}{self.path}"


@dataclass(frozen=True)
class SampleImage:
    name: str
    data: bytes


def parse_target(url: str, model: str | None, headers: Mapping[str, str]) -> Target:
    """Parse a URL. Without a path it means this service's route for the model.

    Raises:
        MeasurementError: The URL is not valid, or has a path although `model` is given.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError as error:
        raise MeasurementError(f"{url!r} is not a valid URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or " " in url or not url.isprintable():
        raise MeasurementError(f"{url!r} is not a valid URL: use http://HOST:PORT")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.path in {"", "/"}:
        route = f"/v1/models/{quote(model, safe='')}/predict" if model else "/v1/predict"
        path = route + path.removeprefix("/")
    elif model:
        raise MeasurementError(
            f"{url} already names a route: leave out --model {model} or the path"
        )
    tls = parts.scheme == "https"
    return Target(
        Address(host, port or (443 if tls else 80), tls),
        parts.netloc.rpartition("@")[2],
        path,
        dict(headers),
    )


def read_images(paths: Sequence[Path]) -> list[SampleImage]:
    """Read the images of these files and folders; if there are many, an even sample.

    Raises:
        MeasurementError: A file is not an image, or a folder has none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            candidates = _even_sample(sorted(path.rglob("*")), MAX_FILES_CHECKED)
            in_folder = [file for file in candidates if file.is_file() and is_image(file)]
            if not in_folder:
                raise MeasurementError(f"{path} has no images that the service can decode")
            files += in_folder
        elif not is_image(path):
            raise MeasurementError(f"{path} is not an image that the service can decode")
        else:
            files.append(path)
    images: list[SampleImage] = []
    for file in _even_sample(files, MAX_IMAGES):
        images.append(SampleImage(file.name, file.read_bytes()))
        if sum(len(image.data) for image in images) > MAX_BYTES:
            break
    return images


def _even_sample(files: Sequence[Path], most: int) -> Sequence[Path]:
    return files[:: max(1, math.ceil(len(files) / most))]


def is_image(file: Path) -> bool:
    """Whether the first bytes are those of a format that the service decodes."""
    with open(file, "rb") as opened:
        return sniff(opened.read(64)) is not None


def builtin_image(shorter_side: int | None) -> SampleImage:
    """A golden image of the built-in model: a small PNG for small inputs, else a large JPEG."""
    name = _BUILTIN_IMAGES[shorter_side is None or shorter_side <= SMALL_INPUT]
    versions = (BUILTIN_ROOT / BUILTIN_DEFAULT_MODEL).iterdir()
    newest = max(versions, key=lambda version: int(version.name))
    return SampleImage(f"built-in {name}", (newest / "golden" / name).read_bytes())


def make_requests(
    target: Target, images: Sequence[SampleImage], images_per_request: int
) -> list[Request]:
    """Requests that cycle through the images, as many as fit into `MAX_BYTES`.

    A single image is sent as the raw body, several as a multipart form.
    """
    requests: list[Request] = []
    for number in range(math.lcm(len(images), images_per_request) // images_per_request):
        first = number * images_per_request
        bodies = [
            images[(first + position) % len(images)].data for position in range(images_per_request)
        ]
        requests.append(_predict_request(target, bodies))
        if sum(len(request.data) for request in requests) > MAX_BYTES:
            break
    return requests


async def check_target(target: Target, request: Request, timeout_seconds: float) -> None:
    """Send one request. 429 and 504 are accepted, because the server may be busy.

    Raises:
        MeasurementError: The server does not respond, or rejects the request.
    """
    response = await _send(target, request.data, timeout_seconds)
    overloaded = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GATEWAY_TIMEOUT}
    if response.status < 400 or response.status in overloaded:
        return
    problem = _json_object(response)
    reason = f"{problem.get('code', '')}: {problem.get('detail', 'no reason given')}"
    raise MeasurementError(f"{target.url} rejects the request: {response.status} {reason}")


async def fetch_input_side(target: Target, model: str | None, timeout_seconds: float) -> int | None:
    """The shorter side of the model's input in pixels; None if the server does not report it."""
    name = model
    if name is None:
        listing = await _send(target, _get_request(target, "/v1/models"), timeout_seconds)
        listed = _json_object(listing).get("models")
        models = (
            [entry for entry in listed if isinstance(entry, dict)]
            if isinstance(listed, list)
            else []
        )
        name = next((str(entry.get("model")) for entry in models if entry.get("default")), None)
    if name is None:
        return None
    path = f"/v1/models/{quote(name, safe='')}"
    detail = await _send(target, _get_request(target, path), timeout_seconds)
    shape = _json_object(detail).get("input")
    sides = [shape.get("height"), shape.get("width")] if isinstance(shape, dict) else []
    return min((side for side in sides if isinstance(side, int)), default=None)


async def _send(target: Target, data: bytes, timeout_seconds: float) -> Response:
    connection: Connection | None = None
    try:
        connection = await connect(target.address, timeout_seconds)
        return await connection.send(data, timeout_seconds)
    except NoResponseError as error:
        where = f"{target.address.host}:{target.address.port}"
        raise MeasurementError(
            f"{where}: {error.kind}. Start a server with `python -m service`, or check the URL"
        ) from None
    finally:
        if connection:
            connection.close()


def _json_object(response: Response) -> dict[str, Any]:
    try:
        document = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _predict_request(target: Target, images: Sequence[bytes]) -> Request:
    if len(images) == 1:
        media_type, body = "application/octet-stream", images[0]
    else:
        boundary = secrets.token_hex(16)
        media_type = f"multipart/form-data; boundary={boundary}"
        disposition = f'Content-Disposition: form-data; name="{FIELD}"; filename="image"'
        part = f"--{boundary}\r\n{disposition}\r\n\r\n".encode()
        body = b"".join(part + image + b"\r\n" for image in images)
        body += f"--{boundary}--\r\n".encode()
    head = _request_head(target, "POST", target.path, media_type, len(body))
    return Request(head + body, len(images))


def _get_request(target: Target, path: str) -> bytes:
    return _request_head(target, "GET", path)


def _request_head(
    target: Target, method: str, path: str, media_type: str = "", length: int = 0
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.authority}", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    lines += [f"Content-Type: {media_type}", f"Content-Length: {length}"] if media_type else []
    return "\r\n".join([*lines, "", ""]).encode()
