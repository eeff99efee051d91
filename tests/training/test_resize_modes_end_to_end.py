"""In each resize mode, square and not, the service sees the pixels that training evaluated."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from pictures import picture, put
from scipy.special import softmax
from server_process import running
from short_runs import publish_as_passed

from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare
from model_store.store import ModelStore
from training.gates.gate import gate
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.request import RunRequest, start_run
from training.steps.evaluate import evaluate, read_logits
from training.steps.export import export
from training.steps.golden import write_golden
from training.steps.train import train

pytestmark = pytest.mark.slow

Trained = dict[str, tuple[Run, RunData]]
MODES = ("shorter_side", "exact", "letterbox")
SIZES = ((16, 16), (12, 32))
QUICK = ("epochs=1", "batch_size=16", "accuracy_floor=0", "augmentation.flip=random")
TOLERANCE = 1e-5


def model_name(mode: str, size: tuple[int, int]) -> str:
    return f"{mode.replace('_', '-')}-{size[0]}x{size[1]}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wide and tall images, PNG and JPEG, in two classes."""
    place = tmp_path_factory.mktemp("modes")
    for number in range(80):
        width, height = ((90, 40), (40, 90), (64, 16))[number % 3]
        kind = ("png", "jpg")[number % 2]
        label = ("noisy", "smooth")[number // 40]
        image = picture(number, width // 8, height // 8) if label == "smooth" else picture(number)
        put(place / "data", {f"{label}/{number}.{kind}": image.resize((width, height))})
    return place


@pytest.fixture(scope="module")
def trained(place: Path) -> Trained:
    """A published run for each mode and size."""
    store, runs = ModelStore(place / "store"), {}
    for mode in MODES:
        for size in SIZES:
            request = RunRequest(
                (str(place / "data"),),
                "resnet20",
                model=model_name(mode, size),
                recipe="digits",
                changes=QUICK,
                image_size=size,
                resize_mode=mode,  # type: ignore[arg-type]
                golden_samples=1,
            )
            run, _ = start_run(request, place / "runs", store)
            data = open_run_data(run)
            train(run, data)
            evaluate(run, data)
            export(run)
            write_golden(run, data)
            gate(run, data)
            publish_as_passed(run, store)
            runs[model_name(mode, size)] = (Run.open(run.path), data)
    return runs


@pytest.fixture(scope="module")
def client(place: Path, trained: Trained) -> Iterator[httpx.Client]:
    assert trained
    with running("--store", place / "store") as server, server.announced().client() as client:
        yield client


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_the_service_scores_the_images_that_training_evaluated(
    client: httpx.Client, trained: Trained, mode: str, size: tuple[int, int]
) -> None:
    """The pixels are bit-identical, and the scores differ by at most 1e-5."""
    run, data = trained[model_name(mode, size)]
    files = [data.images.encoded[index] for index in data.split.test]
    detail = client.get(f"/v1/models/{run.config.model}").json()
    assert (detail["input"]["height"], detail["input"]["width"]) == size
    served = Preprocessing.model_validate_json(json.dumps(detail["preprocessing"]))
    assert served == run.config.preprocessing
    evaluated = np.concatenate(list(data.chunks(data.split.test)))
    assert np.array_equal(np.stack([prepare(file, served) for file in files]), evaluated)
    assert data.uncropped_pixels is not None
    assert np.array_equal(data.uncropped_pixels[data.split.test], evaluated)
    for file, expected in zip(files, softmax(read_logits(run), axis=1), strict=True):
        answer = client.post(f"/v1/models/{run.config.model}/predict?top_k=2", content=file)
        assert answer.status_code == 200, answer.text
        predictions = answer.json()["results"][0]["predictions"]
        scores = {prediction["index"]: prediction["score"] for prediction in predictions}
        assert [scores[0], scores[1]] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("mode", MODES)
def test_the_gates_notice_each_fault_of_the_preprocessing(trained: Trained, mode: str) -> None:
    """Swapped channels, ignored EXIF, and wrong interpolations and crops, in every mode."""
    for size in SIZES:
        run, _ = trained[model_name(mode, size)]
        checks = {check["check"]: check for check in run.read_json("gates.json", "gate")["checks"]}
        noticed = [name for name in checks if name.startswith("golden_notices_")]
        assert len(noticed) == 4
        assert all(checks[name]["value"] >= 1 for name in noticed)
        assert checks["orientation"]["value"] == 0
        assert checks["golden_decode"]["value"] == 0


def test_the_command_of_a_run_repeats_its_geometry(trained: Trained) -> None:
    command = trained["letterbox-12x32"][0].config.command
    assert "--image-size 12x32 --resize-mode letterbox --padding 0,0,0" in command
    assert "--image-size 16 --model" in trained["shorter-side-16x16"][0].config.command
