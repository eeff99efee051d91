"""What `bench` sends where: images from files, folders or this project, as whole HTTP requests to a server that was asked first."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import orjson

from model_store.preprocessing import sniff
from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT
from service.http.request_body import FIELD
from service.loadtest.connection import (
    Address,
    Connection,
    ConnectionFailedError,
    Response,
    connect,
)
from service.loadtest.errors import MeasurementError
from service.loadtest.load import Request

MOST_LOOKED_AT: Final = 4096
MOST_IMAGES: Final = 256
MOST_BYTES: Final = 256 * 1024 * 1024
"""Of a folder, and of all requests: enough that no cache holds them, few enough for memory."""
SMALL_INPUT: Final = 64
_BUILT_IN: Final[Mapping[bool, str]] = {True: "colours.png", False: "large.jpg"}


@dataclass(frozen=True)
class Target:
    """A server and the route on it. `headers` are sent with every request."""

    address: Address
    authority: str
    path: str
    headers: Mapping[str, str]

    @property
    def url(self) -> str:
        """As a person writes it."""
        return f"{'https' if self.address.tls else 'http'}://{self.authority}{self.path}"


@dataclass(frozen=True)
class Image:
    """An encoded image and where it comes from."""

    name: str
    data: bytes


def parse_target(url: str, model: str | None, headers: Mapping[str, str]) -> Target:
    """A bare address means this service's route for the model; a path is taken as it stands. Raises MeasurementError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError as error:
        raise MeasurementError(f"{url!r} is no address of a server: {error}") from None
    if parts.scheme not in {"http", "https"} or not host or " " in url or not url.isprintable():
        raise MeasurementError(f"{url!r} is no address of a server: write http://HOST:PORT")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    if parts.path in {"", "/"}:
        path = (
            f"/v1/models/{quote(model, safe='')}/predict" if model else "/v1/predict"
        ) + path.removeprefix("/")
    elif model:
        raise MeasurementError(
            f"{url} names a route already, so --model {model} says nothing: leave one of them out"
        )
    tls = parts.scheme == "https"
    return Target(
        Address(host, port or (443 if tls else 80), tls),
        parts.netloc.rpartition("@")[2],
        path,
        dict(headers),
    )


def read_images(paths: Sequence[Path]) -> list[Image]:
    """The images of these files and folders, of many an even sample. Raises MeasurementError for what is none."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = [
                file
                for file in _sample(sorted(path.rglob("*")), MOST_LOOKED_AT)
                if file.is_file() and is_image(file)
            ]
            if not found:
                raise MeasurementError(f"{path} has no image in it")
            files += found
        elif not is_image(path):
            raise MeasurementError(f"{path} is no image that the service decodes")
        else:
            files.append(path)
    images: list[Image] = []
    for file in _sample(files, MOST_IMAGES):
        images.append(Image(file.name, file.read_bytes()))
        if sum(len(image.data) for image in images) > MOST_BYTES:
            break
    return images


def _sample(files: Sequence[Path], most: int) -> Sequence[Path]:
    return files[:: max(1, math.ceil(len(files) / most))]


def is_image(file: Path) -> bool:
    """Whether its first bytes are those of a kind that the service decodes."""
    with open(file, "rb") as opened:
        return sniff(opened.read(64)) is not None


def built_in_image(shorter_side: int | None) -> Image:
    """A golden image of the built-in model: a small PNG for a model with a small input, else a JPEG of a photograph's size."""
    name = _BUILT_IN[shorter_side is None or shorter_side <= SMALL_INPUT]
    store = BUILTIN_ROOT / BUILTIN_DEFAULT_MODEL
    newest = max(store.iterdir(), key=lambda version: int(version.name))
    return Image(f"built-in {name}", (newest / "golden" / name).read_bytes())


def make_requests(
    target: Target, images: Sequence[Image], images_per_request: int
) -> list[Request]:
    """Whole requests that go through the images in turn, as many as fit in memory: a raw body each, or a form of several."""
    requests: list[Request] = []
    for number in range(math.lcm(len(images), images_per_request) // images_per_request):
        first = number * images_per_request
        requests.append(
            _request(
                target,
                [images[(first + place) % len(images)].data for place in range(images_per_request)],
            )
        )
        if sum(len(request.data) for request in requests) > MOST_BYTES:
            break
    return requests


async def try_once(target: Target, request: Request, timeout_seconds: float) -> None:
    """Send one request. Raises MeasurementError where the server is not there, or refuses what it would be loaded with."""
    response = await _ask(target, request.data, timeout_seconds)
    if response.status < 400 or response.status in {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.GATEWAY_TIMEOUT,
    }:
        return  # what overload does to it is what is to be measured
    said = _document(response)
    reason = f"{said.get('code', '')}: {said.get('detail', 'no reason given')}"
    raise MeasurementError(f"{target.url} refuses the request: {response.status} {reason}")


async def ask_input_side(target: Target, model: str | None, timeout_seconds: float) -> int | None:
    """The shorter side of the model's input in pixels, where the server is this service and says so."""
    name = model
    if name is None:
        listed = _document(await _ask(target, _get(target, "/v1/models"), timeout_seconds)).get(
            "models"
        )
        models = (
            [entry for entry in listed if isinstance(entry, dict)]
            if isinstance(listed, list)
            else []
        )
        name = next((str(entry.get("model")) for entry in models if entry.get("default")), None)
    if name is None:
        return None
    shape = _document(
        await _ask(target, _get(target, f"/v1/models/{quote(name, safe='')}"), timeout_seconds)
    ).get("input")
    sides = [shape.get("height"), shape.get("width")] if isinstance(shape, dict) else []
    return min((side for side in sides if isinstance(side, int)), default=None)


async def _ask(target: Target, data: bytes, timeout_seconds: float) -> Response:
    connection: Connection | None = None
    try:
        connection = await connect(target.address, timeout_seconds)
        return await connection.ask(data, timeout_seconds)
    except ConnectionFailedError as error:
        where = f"{target.address.host}:{target.address.port}"
        raise MeasurementError(
            f"{where}: {error.kind}. Is a server there? `python -m service` starts one and says where"
        ) from None
    finally:
        if connection:
            connection.close()


def _document(response: Response) -> dict[str, Any]:
    try:
        document = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _request(target: Target, images: Sequence[bytes]) -> Request:
    if len(images) == 1:
        return Request(
            _head(target, "POST", target.path, "application/octet-stream", len(images[0]))
            + images[0],
            1,
        )
    boundary = secrets.token_hex(16)
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="{FIELD}"; filename="image"\r\n\r\n'.encode()
    body = b"".join(part + image + b"\r\n" for image in images) + f"--{boundary}--\r\n".encode()
    return Request(
        _head(target, "POST", target.path, f"multipart/form-data; boundary={boundary}", len(body))
        + body,
        len(images),
    )


def _get(target: Target, path: str) -> bytes:
    return _head(target, "GET", path)


def _head(target: Target, method: str, path: str, media_type: str = "", length: int = 0) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {target.authority}", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    lines += [f"Content-Type: {media_type}", f"Content-Length: {length}"] if media_type else []
    return "\r\n".join([*lines, "", ""]).encode()
