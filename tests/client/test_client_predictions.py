"""Both clients classify with a real service, whatever a program has as an image."""

import functools
import io
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from resident_client import (
    AsyncClient,
    Client,
    ConnectionFailedError,
    ImageInputError,
    ResponseError,
    Result,
)
from server_process import ServerProcess

ROOT = Path(__file__).parents[2]
CAT = ROOT / "docs/images/cat.jpg"
DIGIT = ROOT / "docs/images/digit-7.png"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, retries=0, trust_env=False) as client:
        yield client


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, retries=0, trust_env=False) as client:
        yield client


def test_a_prediction_has_everything_that_the_service_says(
    client: Client, server: ServerProcess
) -> None:
    result = client.predict(CAT, model="cifar10", version=1, top_k=2, coverage=0.95)
    with server.client() as http:
        sent = http.post(
            "/v1/models/cifar10/predict?top_k=2&coverage=0.95", content=CAT.read_bytes()
        ).json()
    (expected,) = sent["results"]
    assert (result.model, result.version) == ("cifar10", 1)
    assert [vars(entry) for entry in result.predictions] == expected["predictions"]
    assert list(result.labels or ()) == expected["labels"]
    assert (result.label, result.score) == ("cat", expected["predictions"][0]["score"])
    assert (result.abstained, result.reason) == (expected["abstained"], expected.get("reason"))
    assert result.error is None


def opened(path: Path) -> Image.Image:
    """As PIL opens it, but without a file that stays open."""
    return Image.open(io.BytesIO(path.read_bytes()))


def exact_inputs() -> dict[str, Any]:
    """The same pixels in every form that loses nothing."""
    pixels = np.asarray(opened(DIGIT).convert("RGB"))
    wider = np.zeros((pixels.shape[0], 2 * pixels.shape[1], 3), np.uint8)
    wider[:, ::2] = pixels
    alpha = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    return {
        "path": DIGIT,
        "text": str(DIGIT),
        "bytes": DIGIT.read_bytes(),
        "bytearray": bytearray(DIGIT.read_bytes()),
        "file": io.BytesIO(DIGIT.read_bytes()),
        "pillow": opened(DIGIT),
        "pillow grey": opened(DIGIT).convert("L"),
        "array": pixels,
        "array with strides": wider[:, ::2],
        "array in Fortran order": np.asfortranarray(pixels),
        "array with alpha": alpha,
        "grey array": pixels[..., 0],
    }


@pytest.mark.parametrize("kind", exact_inputs())
def test_the_same_pixels_give_the_same_result_in_every_form(client: Client, kind: str) -> None:
    expected = client.predict(DIGIT, model="digits-resnet20")
    assert expected.label == "7"
    assert client.predict(exact_inputs()[kind], model="digits-resnet20") == expected


def test_the_orientation_of_a_pillow_image_is_kept(client: Client) -> None:
    upright = opened(CAT)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    turned = Image.open(io.BytesIO(file.getvalue()))
    assert client.predict(turned, model="cifar10") == client.predict(upright, model="cifar10")


def test_a_cmyk_image_is_converted(client: Client) -> None:
    assert client.predict(opened(CAT).convert("CMYK"), model="cifar10").label == "cat"


def test_many_results_are_in_order_and_failed_images_have_errors_in_their_place(
    client: Client, tmp_path: Path
) -> None:
    """Also when a request has more images or bytes than the service allows."""
    big = np.random.default_rng(0).integers(0, 255, (250, 250, 3), np.uint8)
    images = [DIGIT, b"no image", tmp_path / "missing.png", CAT, big] * 5
    counts = list[tuple[int, int | None]]()
    results = list(
        client.predict_many(
            images,
            model="digits-resnet20",
            batch_size=8,
            concurrency=2,
            progress=lambda done, total: counts.append((done, total)),
        )
    )
    for at in range(0, 25, 5):
        digit, broken, missing, cat, noise = results[at : at + 5]
        assert digit.label == "7"
        assert broken.error
        assert (broken.error.code, broken.error.status) == ("not_an_image", 400)
        assert missing.error
        assert (missing.error.code, missing.error.status) == ("unreadable_input", None)
        assert cat.model == noise.model == "digits-resnet20"
    assert counts == [(8, 25), (16, 25), (24, 25), (25, 25)]
    with pytest.raises(ValueError, match="not_an_image"):
        _ = results[1].label


def test_a_batch_of_only_bad_images_is_no_error_of_the_request(client: Client) -> None:
    results = list(client.predict_many([b"x", b"y", b"z"], model="cifar10", batch_size=2))
    assert [result.error and result.error.code for result in results] == ["not_an_image"] * 3


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"model": "none"}, 404, "model_not_found"),
        ({"model": "cifar10", "version": 9}, 404, "version_not_found"),
        ({"model": "cifar10", "top_k": 0}, 400, "invalid_parameter"),
        ({"model": "a b?c"}, 404, "model_not_found"),
    ],
)
def test_an_error_of_the_service_has_its_status_and_code(
    client: Client, options: Any, status: int, code: str
) -> None:
    with pytest.raises(ResponseError) as one:
        client.predict(CAT, **options)
    with pytest.raises(ResponseError) as many:
        list(client.predict_many([CAT], **options))
    for raised in (one, many):
        assert (raised.value.status, raised.value.code) == (status, code)
        assert raised.value.request_id


def test_wrong_arguments_are_refused_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(ImageInputError):
        client.predict(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(ImageInputError):
        client.predict(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ImageInputError):
        client.predict(7)  # type: ignore[arg-type]
    with pytest.raises(ImageInputError):
        client.predict("missing.jpg")
    with pytest.raises(ValueError, match="model"):
        client.predict(CAT, version=1)
    with pytest.raises(TypeError, match="topk"):
        client.predict(CAT, topk=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="http"):
        Client("127.0.0.1:8000")


def test_models_and_readiness_are_shown(client: Client) -> None:
    assert "cifar10" in {model["model"] for model in client.models()}
    assert client.model("cifar10")["class_names"][3] == "cat"
    assert client.ready()
    with Client("http://127.0.0.1:9", retries=0, trust_env=False) as nowhere:
        assert not nowhere.ready()
        with pytest.raises(ConnectionFailedError):
            nowhere.predict(CAT)


def test_an_embedding_is_that_of_the_service(client: Client, server: ServerProcess) -> None:
    embedding = client.embed(CAT, model="cifar10")
    with server.client() as http:
        sent = http.post("/v1/models/cifar10/embed", content=CAT.read_bytes(),
                         headers={"Accept": "application/octet-stream"})  # fmt: skip
    assert embedding.values.tobytes() == sent.content
    assert np.asarray(embedding.values).dtype == np.float32
    assert (embedding.model, embedding.version) == ("cifar10", 1)
    assert client.predict(CAT, model="cifar10", embedding=True).embedding == embedding.values
    many = list(client.embed_many([CAT, b"no image", "missing.png", CAT], model="cifar10"))
    assert many[0] == many[3] == embedding
    codes = [entry.error and entry.error.code for entry in many]
    assert codes == [None, "not_an_image", "unreadable_input", None]
    with pytest.raises(TypeError, match="top_k"):
        client.embed(CAT, top_k=1)  # type: ignore[call-arg]


@pytest.fixture(scope="module")
def web_server() -> Iterator[str]:
    """Another server, which publishes the repository's images."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=ROOT / "docs/images")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_url_is_downloaded_without_the_key(server: ServerProcess, web_server: str) -> None:
    seen = list[httpx.Request]()
    with Client(
        server.address, "a-key", trust_env=False, event_hooks={"request": [seen.append]}
    ) as client:
        cat, missing = client.predict_many(
            [f"{web_server}/cat.jpg", f"{web_server}/none"], model="cifar10", batch_size=1
        )
        with pytest.raises(ImageInputError):
            client.predict(f"{web_server}/none")
    assert cat.label == "cat"
    assert missing.error
    assert missing.error.code == "unreadable_input"
    keys = {request.url.path: request.headers.get("Authorization") for request in seen}
    assert keys == {
        "/cat.jpg": None,
        "/none": None,
        "/v1/models/cifar10/predict": "Bearer a-key",
    }


async def _collect(client: AsyncClient, images: list[Any], **options: Any) -> list[Result]:
    return [result async for result in client.predict_many(images, **options)]


@pytest.mark.anyio
async def test_the_async_client_gives_the_same_results(
    client: Client, async_client: AsyncClient, tmp_path: Path
) -> None:
    images = [DIGIT, b"no image", tmp_path / "missing.png", np.zeros((9, 9, 3), np.uint8)] * 4
    options: Any = {"model": "digits-resnet20", "batch_size": 3, "concurrency": 2}
    assert await _collect(async_client, images, **options) == list(
        client.predict_many(images, **options)
    )
    assert await async_client.predict(CAT) == client.predict(CAT)
    assert await async_client.embed(CAT) == client.embed(CAT)
    assert [each async for each in async_client.embed_many([CAT])] == [client.embed(CAT)]
    assert await async_client.models() == client.models()
    assert await async_client.model("cifar10") == client.model("cifar10")
    assert await async_client.ready()
    with pytest.raises(ResponseError):
        await async_client.predict(CAT, model="none")
    with pytest.raises(ImageInputError):
        await async_client.predict("missing.jpg")


@pytest.mark.anyio
async def test_leaving_the_results_early_ends_the_requests(async_client: AsyncClient) -> None:
    results = async_client.predict_many([CAT] * 40, batch_size=1)
    async for result in results:
        assert result.label == "cat"
        break
    await results.aclose()  # type: ignore[attr-defined]
