"""The data of a run: the same pixels from memory and from workers, and errors before training."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import numbered, put

from model_store.geometry import without_crop
from model_store.preprocessing import prepare
from model_store.store import ModelStore
from training.errors import DataError
from training.learning.distributed import DistributedProcess
from training.reports.history import read_history
from training.reports.run_report import write_run_report
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.known_images import encode_known_images
from training.run.request import RunRequest, start_run
from training.run.weights import LAST_WEIGHTS
from training.steps.evaluate import evaluate
from training.steps.export import export
from training.steps.train import train


def test_streamed_images_train_to_the_same_weights_as_images_in_memory(
    new_run: Callable[..., Run],
) -> None:
    """The weights are bit-identical with any number of workers."""
    weights = set()
    for workers in (None, 0, 1, 2):
        run = new_run("iterations=6")
        data = open_run_data(run)
        if workers is not None:
            data = replace(data, scan=replace(data.scan, pixels=None))
        train(run, data, process=DistributedProcess(workers=workers))
        weights.add((run.path / LAST_WEIGHTS).read_bytes())
    assert len(weights) == 1


def test_large_inputs_are_cropped_from_the_resized_image(tmp_path: Path) -> None:
    """Training crops at random. Evaluation uses the preprocessing of the service."""
    files = numbered("pets/cat", 12) | numbered("pets/dog", 12, first=100)
    pets = put(tmp_path, files) / "pets"
    request = RunRequest(
        (str(pets),),
        "resnet18",
        recipe="modern",
        changes=("iterations=1", "batch_size=8"),
        image_size=(112, 112),
    )
    run, _ = start_run(request, tmp_path / "runs", ModelStore(tmp_path / "store"))
    spec = run.config.preprocessing
    assert (spec.resize, spec.crop_height) == (128, 112)
    data = open_run_data(run)
    assert data.uncropped_pixels is not None
    assert data.uncropped_pixels.shape == (24, 128, 128, 3)
    for index, pixels in zip(data.split.test, next(data.chunks(data.split.test)), strict=True):
        assert np.array_equal(pixels, prepare(data.images.encoded[index], spec))
    assert np.array_equal(
        data.normalization_sample()[0],
        prepare(data.images.encoded[data.split.train[0]], without_crop(spec)),
    )
    train(run, data)
    assert evaluate(run, data)["test_images"] == len(data.split.test)
    export(run)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat": 5, "dog": 0}, "without images.*dog"),
        ({"cat": 5}, "one class.*cat"),
        ({"cat": 5, "dog": 2}, "too few images for every split.*dog"),
    ],
)
def test_data_without_enough_images_is_rejected(
    tmp_path: Path, files: dict[str, int], message: str
) -> None:
    """The error names the class."""
    for number, (name, count) in enumerate(files.items()):
        (tmp_path / "pets" / name).mkdir(parents=True)
        put(tmp_path / "pets", numbered(name, count, first=100 * number))
    run, _ = start_run(
        RunRequest((str(tmp_path / "pets"),), "resnet20", recipe="modern"),
        tmp_path / "runs",
        ModelStore(tmp_path / "store"),
    )
    with pytest.raises(DataError, match=message):
        open_run_data(run)


def test_a_recipe_can_train_on_the_validation_split(
    new_run: Callable[..., Run],
) -> None:
    """Images of the validation split are then known images, and the report says so."""
    run = new_run("epochs=1", "learn_validation=true", 'select="last"')
    data = open_run_data(run)
    both = np.concatenate([data.split.train, data.split.validation])
    assert data.training_indices.tolist() == sorted(both.tolist())
    train(run, data)
    assert read_history(run).images == [len(both)]
    assert read_history(run).validation_learned
    none = np.empty(0, np.uint64)
    known = np.load(io.BytesIO(encode_known_images(data.scan, data.training_indices, none)))
    assert set(known.tolist()) == {int(data.scan.facts[index].digest[:16], 16) for index in both}
    evaluate(run, data)
    assert b"learn_validation" in write_run_report(run, data).read_bytes()
