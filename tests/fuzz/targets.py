"""Fuzz targets: functions of bytes that parse what clients and publishers send. They raise only on
a bug.

`make fuzz` looks for such bytes. `test_fuzz_cases.py` runs the functions on those found before.
"""

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from model_store.aliases import Aliases
from model_store.errors import AliasError, ImageError, ManifestError
from model_store.image_header import sniff
from model_store.manifest import Manifest, Preprocessing
from model_store.preprocessing import prepare
from model_store.store import BUILTIN_ROOT, ModelStore
from service.errors import ServiceError
from service.http.request_body import BodyLimits, parse_body
from service.key_file import ApiKeysError, read_keys
from service.protocols.open_inference.rest_request import read_infer_request
from service.protocols.open_inference_grpc.message_fields import check_fields
from service.protocols.open_inference_grpc.messages import parse_message, read_infer_message
from service.protocols.open_inference_grpc.open_inference_pb2 import ModelInferRequest

SIDE: Final = 8
MAX_IMAGES: Final = 4
MAX_PIXELS: Final = 100_000
MAX_BYTES: Final = 1_000_000
BOUNDARY: Final = "B"
SPEC: Final = Preprocessing(resize=SIDE, crop_height=SIDE, crop_width=SIDE)
LOADED: Final[Any] = SimpleNamespace(  # what reading a request needs of a `LoadedVersion`
    version=ModelStore(BUILTIN_ROOT, None).open("digits-resnet20", 1), embedding_dims=64
)
_LIMITS: Final = BodyLimits(MAX_IMAGES, MAX_BYTES)


def image(data: bytes) -> None:
    """An image of any format, as a decoder process prepares it."""
    sniff(data)
    try:
        pixels = prepare(data, SPEC, MAX_PIXELS)
    except ImageError:
        return
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8


def body(data: bytes) -> None:
    """A body of the image API: the first byte selects its media type."""
    media_types = (
        "application/json",
        f"multipart/form-data; boundary={BOUNDARY}",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "",
    )
    kind = media_types[data[0] % len(media_types)] if data else ""
    headers = {"content-type": kind} if kind else {}
    check_client_error(parse_body(headers, data[1:], _LIMITS, _reserve))


def form(data: bytes) -> None:
    """A multipart body whose header has the boundary `B`."""
    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    check_client_error(parse_body(headers, data, _LIMITS, _reserve))


def archive(data: bytes) -> None:
    """A ZIP archive."""
    check_client_error(parse_body({"content-type": "application/zip"}, data, _LIMITS, _reserve))


def open_inference(data: bytes) -> None:
    """A REST request: two bytes with the length of the JSON, or 65,535 for no such header."""
    length = int.from_bytes(data[:2], "little")
    headers = {} if length == 65_535 else {"inference-header-content-length": str(length)}

    async def read() -> object:
        return read_infer_request(headers, data[2:], LOADED, MAX_IMAGES)

    check_client_error(read())


def grpc_message(data: bytes) -> None:
    """An encoded ModelInferRequest."""

    async def read() -> object:
        check_fields(data, MAX_IMAGES)
        message = parse_message(ModelInferRequest(), data)
        return await read_infer_message(message, LOADED, MAX_IMAGES)

    check_client_error(read())


def manifest(data: bytes) -> None:
    """The bytes of `manifest.json`."""
    try:
        parsed = Manifest.from_bytes(data)
    except ManifestError:
        return
    assert Manifest.from_bytes(parsed.to_bytes()) == parsed


def alias_events(data: bytes) -> None:
    """The event files of an alias, separated by NUL bytes."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "aliases" / "production"
        directory.mkdir(parents=True)
        for number, event in enumerate(data.split(b"\0")[:8], 1):
            (directory / f"{number:08d}.json").write_bytes(event)
        aliases = Aliases("model", Path(folder))
        for read in (aliases.history, aliases.version, aliases.change_token):
            with suppress(AliasError):
                read("production")
        with suppress(AliasError):
            aliases.rollback("production", by="fuzz")


def key_file(data: bytes) -> None:
    """The file of API keys."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            keys = read_keys(Path(file.name))
        except ApiKeysError:
            return
    assert all(key.scopes for key in keys)


def check_client_error(reading: Coroutine[Any, Any, object]) -> None:
    """Run a reader. It succeeds, or raises an error that is the client's fault."""
    status = HTTPStatus.OK
    try:
        asyncio.run(reading)
    except ServiceError as error:
        status = error.status
    except ImageError:
        pass
    assert status < HTTPStatus.INTERNAL_SERVER_ERROR


def _reserve(count: int) -> None:
    assert 0 <= count <= MAX_BYTES


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        image,
        body,
        form,
        archive,
        open_inference,
        grpc_message,
        manifest,
        alias_events,
        key_file,
    )
}
