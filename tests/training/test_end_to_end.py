"""The server returns the predictions of the trained network over HTTP."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from server_process import running

from model_store.preprocessing import prepare
from model_store.store import ModelStore
from training.data.scan import scan
from training.data.sources import encode, load_data
from training.data.split import make_split
from training.gates import gate as gates
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.inference import predict
from training.run.weights import load_trained
from training.steps.calibrate import read_calibration
from training.steps.publish import publish

TOLERANCE = 1e-3
IMAGES_A_REQUEST = 60


@pytest.fixture(scope="module")
def published_run(finished_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the finished run."""
    return Run.open(
        Path(
            shutil.copytree(
                finished_run.path, tmp_path_factory.mktemp("runs") / finished_run.run_id
            )
        )
    )


@pytest.fixture(scope="module")
def data(published_run: Run) -> RunData:
    """The data of the run."""
    return open_run_data(published_run)


@pytest.fixture(scope="module")
def client(
    published_run: Run, data: RunData, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A client of a server whose store has the published run."""
    store = ModelStore(tmp_path_factory.mktemp("end-to-end") / "store")
    gates.gate(published_run, data, {"accuracy_jpeg": "three epochs"})
    publish(published_run, data, store)
    with running("--store", store.root) as server:
        server.announced()
        with server.client() as client:
            yield client


def torch_probabilities(run: Run, data: RunData, files: list[bytes]) -> np.ndarray:
    """Return the calibrated probabilities of the trained network for encoded images."""
    trained, calibration = load_trained(run), read_calibration(run).calibration
    assert calibration is not None
    assert calibration.temperature != 1
    pixels = np.stack([prepare(file, data.preprocessing) for file in files])
    return (
        (predict(trained.network, [pixels], trained.normalize) / calibration.temperature)
        .softmax(1)
        .numpy()
    )


def served_probabilities(client: httpx.Client, files: list[bytes]) -> np.ndarray:
    """Return the probabilities of all classes from the server."""
    rows = []
    for start in range(0, len(files), IMAGES_A_REQUEST):
        images = [
            {"b64": base64.b64encode(file).decode()}
            for file in files[start : start + IMAGES_A_REQUEST]
        ]
        answer = client.post(
            "/v1/models/digits-resnet20/versions/1/predict?top_k=10", json={"images": images}
        )
        assert answer.status_code == 200, answer.text
        for result in answer.json()["results"]:
            scores = {
                prediction["index"]: prediction["score"] for prediction in result["predictions"]
            }
            rows.append([scores[index] for index in range(10)])
    return np.array(rows)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_test_image_has_the_probabilities_of_training(
    client: httpx.Client, published_run: Run, data: RunData, kind: str
) -> None:
    """Top-1 is equal, and probabilities differ by at most 1e-3."""
    images = [Image.open(io.BytesIO(data.images.encoded[index])) for index in data.split.test]
    files = [encode(image, kind) for image in images]
    expected = torch_probabilities(published_run, data, files)
    served = served_probabilities(client, files)
    assert np.array_equal(served.argmax(1), expected.argmax(1))
    assert np.abs(served - expected).max() <= TOLERANCE


def test_the_server_abstains_and_covers_as_measured_in_training(
    client: httpx.Client, finished_run: Run, data: RunData
) -> None:
    """The shares on the test split equal those in calibration.json."""
    measured = read_calibration(finished_run).test
    assert measured is not None
    labels = [data.images.label(index) for index in data.split.test]
    files = [data.images.encoded[index] for index in data.split.test]
    results = []
    for start in range(0, len(files), IMAGES_A_REQUEST):
        images = [
            {"b64": base64.b64encode(file).decode()}
            for file in files[start : start + IMAGES_A_REQUEST]
        ]
        answer = client.post(
            "/v1/models/digits-resnet20/predict?coverage=0.95", json={"images": images}
        )
        results += answer.json()["results"]
    assert np.mean([result["abstained"] for result in results]) == pytest.approx(measured.abstained)
    held = [label in result["labels"] for label, result in zip(labels, results, strict=True)]
    assert np.mean(held) == pytest.approx(measured.sets["0.95"].coverage)


def test_golden_images_have_the_probabilities_of_training(
    client: httpx.Client, published_run: Run, data: RunData
) -> None:
    """They include EXIF orientations, CMYK, alpha, 16 bits and a large photograph."""
    files = [
        path.read_bytes() for path in sorted((published_run.path / "golden").glob("*.[jp][pn]g"))
    ]
    assert len(files) == 13
    assert (
        np.abs(
            served_probabilities(client, files) - torch_probabilities(published_run, data, files)
        ).max()
        <= TOLERANCE
    )


def test_the_model_route_has_the_provenance(client: httpx.Client, published_run: Run) -> None:
    """It has the run id, the data and all checks."""
    detail = client.get("/v1/models/digits-resnet20").json()
    assert detail["training"]["run_id"] == published_run.run_id
    assert detail["training"]["data"]["name"] == "digits"
    assert {check["check"] for check in detail["gate"]} >= {
        "parity_batch_32",
        "accuracy_floor",
        "golden_notices_ignored_exif",
    }
    assert detail["version"] == 1


def test_the_image_of_the_readme_is_in_the_test_split() -> None:
    """Its file name states its label."""
    path = Path(__file__).parents[2] / "docs/images/digit-7.png"
    images = load_data("digits")
    test = make_split(images, scan(images).facts, left_out=()).test
    (index,) = [index for index in test if images.encoded[index] == path.read_bytes()]
    assert images.label(index) == "7"
