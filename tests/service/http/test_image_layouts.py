"""Images of unusual layouts over HTTP: classified, or 415; and nothing of them in the log."""

import io
import random
import struct
from pathlib import Path

import httpx
import numpy as np
import pytest
import tiff_files
from bmp_files import bmp_file
from colour_model import labels, make_store, publish
from http_problems import check_problem
from PIL import Image
from server_process import running
from tiff_files import tiff_file

RED = (200, 0, 0)
GREY = np.full((16, 16, 1), 200)
COLOURS = np.full((16, 16, 3), RED)


def noise() -> bytes:
    """A red JPEG whose last bytes are pixels."""
    pixels = np.frombuffer(random.Random(1).randbytes(40 * 40 * 3), np.uint8) // 4
    image = Image.fromarray(pixels.reshape(40, 40, 3) + np.array([150, 0, 0], np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def avif() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), RED).save(buffer, "AVIF")
    return buffer.getvalue()


def jpeg_of_12_bits() -> bytes:
    data = bytearray(noise())
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


BLACK_IS_ZERO, RGB = tiff_files.BLACK_IS_ZERO, tiff_files.RGB
ACCEPTED = {
    "JPEG without its end": noise()[:-2],
    "JPEG and a video": noise() + b"\xff\xda\0\x0c" * 400_000,
    "TIFF of 16 bits": tiff_file(COLOURS * 257, 16, RGB),
    "TIFF with a palette of bytes": tiff_file(
        GREY, 8, tiff_files.PALETTE, colour_map=[*[200] * 256, *[0] * 512]
    ),
    "TIFF with unknown tags": tiff_file(
        COLOURS,
        8,
        RGB,
        compression=tiff_files.DEFLATE,
        more_tags=[(40_000 + i, 0, [7]) for i in range(500)],  # below the limit of entries
    ),
    "BMP of alpha 0": bmp_file(
        np.full((16, 16), 0xC80000), 32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000), header_size=108
    ),
    "AVIF": avif(),
}
LARGE_PNG = struct.pack(
    ">8sI4sIIBBBBBI", b"\x89PNG\r\n\x1a\n", 13, b"IHDR", 9300, 9300, 8, 2, 0, 0, 0, 0
)
UNSUPPORTED = {
    "TIFF of floats": tiff_file(
        COLOURS.astype("f4"), 32, RGB, sample_format=tiff_files.FLOAT, order=">"
    ),
    "TIFF of 12 bits": tiff_file(GREY, 12, BLACK_IS_ZERO),
    "TIFF of 16 bits in planes": tiff_file(COLOURS * 257, 16, RGB, planar=True),
    "TIFF where 0 is white": tiff_file(GREY * 257, 16, tiff_files.WHITE_IS_ZERO),
    "BMP with unusual masks": bmp_file(np.full((16, 16), 200), 32, masks=(0xFF, 0xFF00, 0xFF0000)),
    "JPEG of 12 bits": jpeg_of_12_bits(),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_good_image_is_classified(name: str, client: httpx.Client) -> None:
    """By the pixels that its file describes."""
    response = client.post("/v1/predict", content=ACCEPTED[name])
    assert response.status_code == 200, response.text
    assert labels(response.json()["results"]) == ["red"]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_layout_that_is_not_decoded_is_415(name: str, client: httpx.Client) -> None:
    """It is neither truncated nor damaged, and no answer is given from other pixels."""
    check_problem(client.post("/v1/predict", content=UNSUPPORTED[name]), 415, "unsupported_image")


def test_nothing_of_an_image_is_logged(tmp_path: Path) -> None:
    """At most one line for each request, and no warning of a decoder."""
    store = make_store(tmp_path / "store")
    publish(store)
    with running("--store", store.root, "--no-builtin") as server:
        server.announced()
        with server.client() as client:
            before = len(server.stderr.text.splitlines())
            images = [*ACCEPTED.values(), *UNSUPPORTED.values(), LARGE_PNG]
            for image in images:
                client.post("/v1/predict", content=image)
        server.end()
    lines = server.stderr.text.splitlines()[before:]
    assert "Warning" not in server.stderr.text
    assert "40000" not in server.stderr.text
    assert len(lines) <= len(images) + 20  # and those of the shutdown
