"""The program of a decoder process: it decodes images within limits of memory and CPU time.

`service.prediction.decoder` starts it. Its standard input is a socket, with these messages::

    request   REQUEST (lengths of spec and image, largest cost, memory in bytes), spec, image
    reply     REPLY (kind, length of the payload), payload

To start fast and use little memory, it does not import pydantic, asyncio or ONNX Runtime.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
from io import BufferedReader
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

from model_store.errors import ImageError
from model_store.geometry import largest_resized_size
from model_store.heif import CODE_BYTES, HEIF, is_heif_plugin_loaded
from model_store.image_header import open_image, sniff, webp_canvas
from model_store.jpeg_markers import count_scans
from model_store.preprocessing import decode
from service.host.child_process import limit_memory, memory_in_use, prepare_child_process

if TYPE_CHECKING:
    from model_store.manifest import Preprocessing

MAX_USUAL_SCANS: Final = 20
"""A progressive JPEG with more scans costs more: each scan is decoded over the whole image."""
REQUEST: Final = struct.Struct(">IQdQ")
REPLY: Final = struct.Struct(">BQ")
SIZE: Final = struct.Struct(">II")
"""Width and height of the upright image, before the pixels."""
COST_PAYLOAD: Final = struct.Struct(">dQ")
JPEG_START: Final = b"\xff\xd8"
READY, PIXELS, COST, IMAGE_ERROR, FAULT = range(5)
EXIT_MEMORY: Final = 75


def main(max_pixels: int, cpu_seconds: int) -> None:
    """Decode images from standard input until it is closed.

    Args:
        max_pixels: Limit for the pixels of an image.
        cpu_seconds: CPU time that one image may take.
    """
    prepare_child_process()
    idle_bytes = memory_in_use()
    connection = socket.socket(fileno=os.dup(0))
    requests = connection.makefile("rb")
    try:
        _send(connection, READY)
        while True:
            _send(connection, *_answer(requests, max_pixels, cpu_seconds, idle_bytes))
    except (MemoryError, SystemError):  # Python can lose a MemoryError; that is a SystemError
        os._exit(EXIT_MEMORY)  # so that the memory is freed
    except (ConnectionError, EOFError):
        return  # the service has closed the connection


def limit_cpu(seconds: int) -> None:
    """Make the kernel end this process with SIGXCPU after `seconds` more of CPU time.

    The kernel counts whole seconds, so an image gets up to one second less.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = int(usage.ru_utime + usage.ru_stime)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or used + seconds < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, hard))


def decoded_pixels(size: tuple[int, int], spec: Preprocessing) -> int:
    """Pixels of an image or of its resized and padded form, whichever are more."""
    width, height = largest_resized_size(*size, spec)
    return max(size[0] * size[1], width * height)


def decode_cost(pixels: int, image: bytes) -> float:
    """The pixels; more for a JPEG with many scans."""
    scans = count_scans(image) if image.startswith(JPEG_START) else 1
    return pixels * max(1.0, scans / MAX_USUAL_SCANS)


def _answer(
    requests: BufferedReader, max_pixels: int, cpu_seconds: int, idle_bytes: int | None
) -> tuple[int, bytes]:
    """Read one request and decode its image. Returns the kind and the payload of the reply."""
    spec_length, image_length, max_cost, memory = REQUEST.unpack(_read(requests, REQUEST.size))
    limit_cpu(cpu_seconds)
    if idle_bytes is not None:
        memory += idle_bytes
        limit_memory(memory + CODE_BYTES * is_heif_plugin_loaded())
    spec = _parse_spec(_read(requests, spec_length))
    image = _read(requests, image_length)
    if idle_bytes is not None and sniff(image) == HEIF:
        limit_memory(memory + CODE_BYTES)
    try:
        canvas = webp_canvas(image)  # Pillow allocates the canvas when it opens the image
        if canvas and max_cost < decoded_pixels(canvas, spec) <= max_pixels:
            return _cost(decoded_pixels(canvas, spec), image)
        opened = open_image(image, spec, max_pixels)
        pixels = decoded_pixels(opened.size, spec)
        if decode_cost(pixels, image) > max_cost:
            return _cost(pixels, image)
        decoded = decode(opened, spec)
        return PIXELS, SIZE.pack(*decoded.size) + decoded.pixels.tobytes()
    except ImageError as error:
        return IMAGE_ERROR, json.dumps([type(error).__name__, str(error)]).encode()
    except (MemoryError, SystemError):
        raise
    except Exception as error:  # noqa: BLE001  the service logs it
        return FAULT, repr(error).encode()


def _cost(pixels: int, image: bytes) -> tuple[int, bytes]:
    return COST, COST_PAYLOAD.pack(decode_cost(pixels, image), pixels)


def _parse_spec(encoded: bytes) -> Preprocessing:
    """Parse without pydantic, whose import takes 10 MB. The service has validated the spec."""
    return cast("Preprocessing", json.loads(encoded, object_hook=_parse_block))


def _parse_block(block: dict[str, Any]) -> SimpleNamespace:
    defaults: dict[str, Any] = {"letterbox": None}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in block.items()}
    return SimpleNamespace(**(defaults | values))


def _read(requests: BufferedReader, length: int) -> bytes:
    data = requests.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _send(connection: socket.socket, kind: int, payload: bytes = b"") -> None:
    connection.sendall(REPLY.pack(kind, len(payload)) + payload)
