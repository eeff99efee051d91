"""ZIP archives of images: what is read, what is skipped, and the limits."""

import asyncio
import io
import random
import struct
import tracemalloc
import zipfile
from contextlib import suppress
from typing import Any

import httpx
import pytest
from colour_model import labels, plain
from http_problems import check_problem

from service.errors import BadRequestError, OverloadedError, ServiceError, TooLargeError
from service.http.request_body import BodyLimits, parse_body
from service.http.zip_body import MAX_OTHER_ENTRIES, MIN_CHECKED_BYTES, ZipBody
from service.prediction.request import RequestImages

RED, GREEN, BLUE = plain("red"), plain("green", "JPEG"), plain("blue", "BMP")
LIMITS = BodyLimits(max_images=4, max_body_bytes=8 * 1024 * 1024)
LOCAL_SIZE_OFFSET, DIRECTORY_SIZE_OFFSET = 22, 24


def archive(
    *entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries:
            file.writestr(name, data)
        file.comment = comment
    return buffer.getvalue()


def claim_size(body: bytes, size: int) -> bytes:
    """An archive with one entry, whose headers state another size."""
    directory = body.index(b"PK\x01\x02")
    changed = bytearray(body)
    for offset in (LOCAL_SIZE_OFFSET, directory + DIRECTORY_SIZE_OFFSET):
        changed[offset : offset + 4] = struct.pack("<I", size)
    return bytes(changed)


def read(
    body: bytes, media_type: str = "application/zip", reserve: Any = lambda _: None
) -> RequestImages:
    return asyncio.run(parse_body({"content-type": media_type}, body, LIMITS, reserve))


def rejection(body: bytes) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        read(body)
    return caught.value


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_images_have_their_order_and_their_paths(method: int) -> None:
    body = archive(("b/red.png", RED), ("a/\u732b.jpg", GREEN), ("blue.bmp", BLUE), method=method)
    found = read(body)
    assert found.images == [RED, GREEN, BLUE]
    assert found.names == ["b/red.png", "a/\u732b.jpg", "blue.bmp"]


@pytest.mark.parametrize(
    "media_type", ["application/zip", "application/x-zip-compressed", "", "text/plain"]
)
def test_archive_is_recognised_by_its_first_bytes(media_type: str) -> None:
    """By default, curl labels it as a form."""
    assert read(archive(("red.png", RED)), media_type).images == [RED]


def test_files_of_operating_systems_are_skipped() -> None:
    body = archive(
        ("photos/", b""),
        ("__MACOSX/photos/._red.png", b"x"),
        ("photos/.DS_Store", b"x"),
        ("photos/Thumbs.db", b"x"),
        ("photos/red.png", RED),
    )
    assert read(body).names == ["photos/red.png"]


def test_archive_without_images_is_an_error() -> None:
    assert rejection(archive(("photos/", b""))).code == "no_images"
    assert rejection(archive()).code == "no_images"


def test_too_many_images_are_an_error() -> None:
    assert len(read(archive(*[(f"{n}.png", RED) for n in range(4)])).images) == 4
    assert rejection(archive(*[(f"{n}.png", RED) for n in range(5)])).code == "too_many_images"


def test_directory_of_countless_entries_is_not_parsed() -> None:
    """A small archive can have a million of them, which would be gigabytes of objects."""
    folders = [(f"{n}/", b"") for n in range(MAX_OTHER_ENTRIES + 5)]
    assert rejection(archive(*folders)).code == "too_many_images"
    assert read(archive(*folders[:MAX_OTHER_ENTRIES], ("red.png", RED))).images == [RED]


def test_total_size_is_limited_before_decompression() -> None:
    half = random.Random(1).randbytes(LIMITS.max_body_bytes // 2)
    assert len(read(archive(("a", half), ("b", half))).images) == 2
    error = rejection(archive(("a", half), ("b", half + b"x")))
    assert (error.status, error.code) == (413, "body_too_large")


def test_memory_for_the_images_is_reserved() -> None:
    reserved: list[int] = []
    read(archive(("a.png", RED), ("b.jpg", GREEN)), reserve=reserved.append)
    assert reserved == [len(RED) + len(GREEN)]

    def refuse(_: int) -> None:
        raise OverloadedError("no memory")

    with pytest.raises(OverloadedError):
        read(archive(("a.png", RED)), reserve=refuse)


@pytest.mark.parametrize(("zeros", "accepted"), [(0, True), (1, False)])
def test_entry_that_shrinks_far_too_much_is_not_decompressed(zeros: int, accepted: object) -> None:
    found = read(archive(("bomb.bmp", bytes(MIN_CHECKED_BYTES + zeros)), ("red.png", RED)))
    assert isinstance(found.images[0], bytes) is accepted
    if not accepted:
        assert isinstance(found.images[0], TooLargeError)
    assert found.images[1] == RED


def test_data_behind_the_stated_size_is_not_decompressed() -> None:
    """100 MB in an entry that states 1,000 bytes."""
    body = claim_size(archive(("bomb.bmp", bytes(100_000_000))), 1000)
    tracemalloc.start()
    (image,) = read(body).images
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(image, BadRequestError)
    assert image.code == "malformed_zip"
    assert peak < 16_000_000


def test_stated_size_may_be_too_large() -> None:
    """The checksum says that the image is complete."""
    assert read(claim_size(archive(("red.png", RED)), len(RED) + 1)).images == [RED]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_an_error_of_the_image(method: int) -> None:
    """LZMA may ask for gigabytes."""
    (image,) = read(archive(("red.png", RED), method=method)).images
    assert isinstance(image, BadRequestError)
    assert image.code == "malformed_zip"


def test_encrypted_damaged_and_empty_entries_are_errors_of_the_image() -> None:
    body = bytearray(
        archive(("cut.png", RED), ("red.png", RED), ("empty.png", b""), method=zipfile.ZIP_STORED)
    )
    body[body.index(RED) + 20] ^= 1
    found = read(bytes(body)).images
    assert [getattr(image, "code", image) for image in found] == [
        "malformed_zip",
        RED,
        "empty_image",
    ]
    encrypted = bytearray(archive(("red.png", RED)))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (image,) = read(bytes(encrypted)).images
    assert isinstance(image, BadRequestError)
    assert image.code == "malformed_zip"


def test_archive_that_is_cut_is_an_error() -> None:
    body = archive(("red.png", RED), ("green.jpg", GREEN))
    for kept in (3, 4, 30, len(body) // 2, len(body) - 1):
        assert rejection(body[:kept]).code == "malformed_zip"


def test_damage_anywhere_is_never_an_internal_error() -> None:
    """Each byte of the headers, and each length and offset, set to other values."""
    body = archive(("red.png", RED), ("green.jpg", GREEN), comment=b"c")
    for position in range(len(body)):
        for value in (0, 0x7F, 0xFF):
            changed = bytearray(body)
            changed[position] = value
            with suppress(ServiceError):
                ZipBody(bytes(changed), 4, LIMITS.max_body_bytes).read()


def test_archive_over_http(client: httpx.Client) -> None:
    """As a client sends it, in a real server."""
    body = archive(("a/red.png", RED), ("text.txt", b"no image"), ("green.jpg", GREEN))
    response = client.post("/v1/predict", content=body, headers={"content-type": "application/zip"})
    results = response.json()["results"]
    assert [result["name"] for result in results] == ["a/red.png", "text.txt", "green.jpg"]
    assert labels([results[0], results[2]]) == ["red", "green"]
    assert results[1]["error"]["code"] == "not_an_image"
    check_problem(client.post("/v1/predict", content=body[:-30]), 400, "malformed_zip")


def test_limits_of_a_server_hold_for_archives(limited_client: httpx.Client) -> None:
    """`SERVICE_MAX_IMAGES` and `SERVICE_MAX_BODY_BYTES`."""
    many = archive(*[(f"{n}.png", RED) for n in range(5)])
    check_problem(limited_client.post("/v1/predict", content=many), 413, "too_many_images")
    large = archive(("large.bmp", bytes(50_001)))
    check_problem(limited_client.post("/v1/predict", content=large), 413, "body_too_large")
