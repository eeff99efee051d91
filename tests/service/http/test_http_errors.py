"""Every error code over real HTTP; the process survives all of them."""

import asyncio
import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from colour_model import MODEL, encode, labels, make_store, plain, publish
from http_problems import check_problem
from PIL import Image
from server_process import PATIENCE_SECONDS, ServerProcess, request_head, running

from model_store.store import ModelStore

RED, GREEN = plain("red"), plain("green")
FLOATS = encode(Image.new("F", (8, 8)), "TIFF")  # of no defined range
JSON = {"content-type": "application/json"}


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes whose header claims any size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (header, data, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def noise(image_format: str) -> bytes:
    """An image that does not compress: most of its bytes are pixels."""
    buffer = io.BytesIO()
    pixels = random.Random(1).randbytes(4800)
    Image.frombytes("RGB", (40, 40), pixels).save(buffer, image_format)
    return buffer.getvalue()


def corrupt_png() -> bytes:
    data = bytearray(noise("PNG"))
    data[200] ^= 0xFF
    return bytes(data)


def base64_json(*images: bytes) -> bytes:
    return json.dumps(
        {"images": [{"b64": base64.b64encode(image).decode()} for image in images]}
    ).encode()


def multipart(
    *parts: tuple[str, bytes],
    keep: float = 1.0,
    boundary: str = "B",
    announced: str = "B",
    file: bool = True,
) -> dict[str, Any]:
    name = '; filename="x.png"' if file else ""
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"{name}\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for field, data in parts
    )
    body += f"--{boundary}--\r\n".encode()
    return {
        "content": body[: int(len(body) * keep)],
        "headers": {
            "content-type": f"multipart/form-data; boundary={announced}"
            if announced
            else "multipart/form-data"
        },
    }


BODIES: list[Any] = [
    ("empty", {"content": b""}, 400, "empty_body"),
    ("empty_json", {"content": b"", "headers": JSON}, 400, "empty_body"),
    ("text", {"content": b"hello"}, 400, "not_an_image"),
    ("form", {"data": {"image": "hello"}}, 400, "not_an_image"),
    (
        "text_as_image",
        {"content": b"hello", "headers": {"content-type": "image/png"}},
        400,
        "not_an_image",
    ),
    ("zeros", {"content": bytes(1000)}, 400, "not_an_image"),
    ("truncated_png", {"content": noise("PNG")[:2000]}, 400, "truncated_image"),
    ("truncated_jpeg", {"content": noise("JPEG")[:1000]}, 400, "truncated_image"),
    ("truncated_header", {"content": RED[:12]}, 400, "truncated_image"),
    ("corrupt_png", {"content": corrupt_png()}, 400, "corrupt_image"),
    ("huge_png", {"content": png_of_size(60_000, 60_000)}, 413, "too_many_pixels"),
    ("large_png", {"content": png_of_size(9_000, 9_000)}, 413, "too_many_pixels"),
    ("thin_png", {"content": png_of_size(1, 60_000_000)}, 413, "too_many_pixels"),
    ("floats", {"content": FLOATS}, 415, "unsupported_image"),
    (
        "floats_as_tiff",
        {"content": FLOATS, "headers": {"content-type": "image/tiff"}},
        415,
        "unsupported_image",
    ),
    (
        "media_type",
        {"content": b"<a/>", "headers": {"content-type": "application/xml"}},
        415,
        "unsupported_media_type",
    ),
    (
        "broken_media_type",
        {"content": b"hello", "headers": {"content-type": ";;;"}},
        400,
        "not_an_image",
    ),
    (
        "gzip",
        {"content": RED, "headers": {"content-encoding": "gzip"}},
        415,
        "unsupported_encoding",
    ),
    ("not_json", {"content": b"{images:", "headers": JSON}, 400, "malformed_json"),
    ("not_utf8", {"content": b'{"images": "\xff\xfe"}', "headers": JSON}, 400, "malformed_json"),
    (
        "lone_surrogate",
        {"content": b'{"images": [{"b64": "\\ud800"}]}', "headers": JSON},
        400,
        "malformed_json",
    ),
    ("deep_json", {"content": b"[" * 100_000, "headers": JSON}, 400, "malformed_json"),
    ("json_list", {"json": ["QUJD"]}, 400, "malformed_json"),
    ("json_null", {"content": b"null", "headers": JSON}, 400, "malformed_json"),
    ("json_nested_list", {"json": {"images": [["QUJD"]]}}, 400, "malformed_json"),
    ("json_strings_of_text", {"json": {"images": ["aGVsbG8="]}}, 400, "not_an_image"),
    ("json_without_type", {"content": b'{"images": 1}'}, 400, "malformed_json"),
    ("json_number", {"json": {"images": [{"b64": 5}]}}, 400, "malformed_json"),
    (
        "json_unknown_field",
        {"json": {"images": [{"b64": "QUJD", "url": "x"}]}},
        400,
        "malformed_json",
    ),
    ("json_missing_field", {"json": {"image": "QUJD"}}, 400, "malformed_json"),
    ("json_no_images", {"json": {"images": []}}, 400, "no_images"),
    ("base64", {"json": {"images": [{"b64": "not base64!"}]}}, 400, "malformed_base64"),
    ("base64_empty", {"json": {"images": [{"b64": ""}]}}, 400, "empty_image"),
    ("base64_of_text", {"json": {"images": [{"b64": "aGVsbG8="}]}}, 400, "not_an_image"),
    (
        "json_too_many",
        {"content": base64_json(*[RED] * 65), "headers": JSON},
        413,
        "too_many_images",
    ),
    ("multipart_too_many", multipart(*[("images", RED)] * 65), 413, "too_many_images"),
    ("multipart_no_boundary", multipart(("images", RED), announced=""), 400, "malformed_multipart"),
    (
        "multipart_other_boundary",
        multipart(("images", RED), announced="C"),
        400,
        "malformed_multipart",
    ),
    (
        "multipart_text_beside_images",
        multipart(("images", b"a.png"), ("images", b"b.png"), file=False),
        400,
        "malformed_multipart",
    ),
    ("multipart_only_text", multipart(("threshold", b"0.5"), file=False), 400, "no_images"),
    ("multipart_no_file", multipart(("images", b"text"), file=False), 400, "malformed_multipart"),
    ("multipart_no_parts", multipart(), 400, "no_images"),
    (
        "multipart_truncated",
        multipart(("images", RED), ("images", GREEN), keep=0.75),
        400,
        "malformed_multipart",
    ),
    (
        "multipart_truncated_first",
        multipart(("images", RED), ("images", GREEN), keep=0.25),
        400,
        "malformed_multipart",
    ),
    ("multipart_empty_image", multipart(("images", b"")), 400, "empty_image"),
]


@pytest.mark.parametrize(
    ("request_parts", "status", "code"), [pytest.param(*rest, id=name) for name, *rest in BODIES]
)
def test_body_that_cannot_be_classified(
    client: httpx.Client, request_parts: dict[str, Any], status: int, code: str
) -> None:
    """Each fault of a body has its status and code, and the next request is answered."""
    check_problem(client.post("/v1/predict", **request_parts), status, code)
    assert labels(client.post("/v1/predict", content=RED).json()["results"]) == ["red"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/v1/models/nobody/predict", 404, "model_not_found"),
        ("GET", "/v1/models/nobody", 404, "model_not_found"),
        ("POST", f"/v1/models/{MODEL}/versions/2/predict", 404, "version_not_found"),
        ("POST", f"/v1/models/{MODEL}/versions/0/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/abc/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/-1/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/01/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/1.0/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/+1/predict", 400, "invalid_parameter"),
        ("POST", f"/v1/models/{MODEL}/versions/{'9' * 5000}/predict", 400, "invalid_parameter"),
        ("GET", "/nowhere", 404, "route_not_found"),
        ("POST", "/v1/models/..%2f..%2fetc/predict", 404, "route_not_found"),
        ("GET", "/static/../__main__.py", 404, "route_not_found"),
        ("GET", "/static/%2e%2e/settings.py", 404, "route_not_found"),
        ("POST", "/v1/predict%0A", 404, "route_not_found"),
        ("POST", f"/v1/models/{MODEL}/predict%0A", 404, "route_not_found"),
        ("POST", f"/v1/models/{MODEL}/versions/1/predict%0A", 404, "route_not_found"),
        ("GET", "/v1/predict", 405, "method_not_allowed"),
        ("PUT", f"/v1/models/{MODEL}/predict", 405, "method_not_allowed"),
        ("DELETE", f"/v1/models/{MODEL}", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
def test_path_that_cannot_be_answered(
    server: ServerProcess, method: str, path: str, status: int, code: str
) -> None:
    """Unknown models, versions and routes, non-canonical numbers and wrong methods are problems."""
    raw = httpx.URL(server.address).copy_with(raw_path=path.encode())
    response = httpx.request(
        method, raw, content=RED if method == "POST" else None, trust_env=False
    )
    check_problem(response, status, code)
    if status == 405:
        assert response.headers["allow"]


@pytest.fixture
def exhaustible(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server that holds 32 images, and 100,000 bytes of bodies unless a body is alone."""
    store = make_store(tmp_path / "store")
    publish(store)
    limits = (
        "--max-queue-size",
        32,
        "--max-images",
        32,
        "--max-upload-bytes",
        100_000,
        "--max-body-bytes",
        200_000,
    )
    with running("--store", store.root, "--no-builtin", "--no-access-log", *limits) as server:
        yield server.announced()


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_mixed_load_releases_everything(exhaustible: ServerProcess, count: int) -> None:
    """Queue and upload budget are free after hundreds of good, bad and abandoned requests."""
    chance = random.Random(count)
    url = httpx.URL(exhaustible.address)
    bad = [parts for _, parts, _, _ in BODIES]
    colours = ["red", "green", "blue", "cyan"]
    answered = {"good": 0, "bad": 0, "abandoned": 0}

    async def good(client: httpx.AsyncClient) -> None:
        names = chance.choices(colours, k=chance.randint(1, 3))
        response = await client.post(
            "/v1/predict", content=base64_json(*map(plain, names)), headers=JSON
        )
        assert response.status_code in {200, 429}
        if response.status_code == 200:
            assert labels(response.json()["results"]) == names
            answered["good"] += 1

    async def wrong(client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/predict", **chance.choice(bad))
        assert 400 <= response.status_code < 500
        answered["bad"] += 1

    async def abandon(_: httpx.AsyncClient) -> None:
        body = chance.choice([RED, GREEN, noise("PNG"), base64_json(RED, GREEN)])
        _, writer = await asyncio.open_connection(url.host, url.port)
        request = request_head(Content_Length=len(body), Content_Type="application/json") + body
        writer.write(
            request[: chance.choice([10, len(request) // 2, len(request) - 1, len(request)])]
        )
        await writer.drain()
        if chance.random() < 0.5:
            writer.transport.abort()  # a reset instead of an orderly close
        writer.close()
        answered["abandoned"] += 1

    async def storm() -> None:
        limits = httpx.Limits(max_connections=24)
        async with httpx.AsyncClient(
            base_url=url, timeout=PATIENCE_SECONDS, limits=limits, trust_env=False
        ) as client:
            slots = asyncio.Semaphore(24)

            async def one(kind: Any) -> None:
                async with slots:
                    await kind(client)

            kinds = chance.choices([good, wrong, abandon], k=count)
            await asyncio.gather(*map(one, kinds))

    asyncio.run(storm())
    assert min(answered.values()) > count // 10
    with exhaustible.client() as client:
        everything = [
            ("images", (f"{number}.png", RED + bytes(4000))) for number in range(32)
        ]  # 128,000 bytes: admitted only alone
        while (response := client.post("/v1/predict", files=everything)).status_code == 429:
            assert (
                client.get("/health/live").status_code == 200
            )  # the last disconnects are still being noticed
        assert labels(response.json()["results"]) == ["red"] * 32


def test_errors_of_clients_leave_no_traceback_in_the_log(colour_store: ModelStore) -> None:
    """The log has neither a traceback nor a Python warning."""
    with (
        running("--store", colour_store.root, "--no-builtin") as server,
        server.announced().client() as client,
    ):
        for _, parts, status, _ in BODIES:
            assert client.post("/v1/predict", **parts).status_code == status
        client.post("/v1/predict", files=[("images", ("a.png", RED)), ("images", ("b.png", GREEN))])
        with server.connect() as connection:
            connection.sendall(request_head(Content_Length=len(RED)) + RED[:20])
        client.close()
        server.end()
    assert "Traceback" not in server.stderr.text
    assert "Warning" not in server.stderr.text
