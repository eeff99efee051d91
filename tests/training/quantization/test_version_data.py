"""The images of a version, found again, with the split that it was trained on."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.store import BUILTIN_ROOT, ModelStore
from model_store.version import Version
from training.errors import DataError, QuantizationError
from training.quantization.version_data import find_data, open_labelled, same_data
from training.run.data import KNOWN_IMAGES_FILE, RunData, open_run_data, short_digest
from training.run.directory import RunDirectory

BUILTIN = ModelStore(BUILTIN_ROOT, builtin_root=None)


def make_pictures(root: Path, labels: str) -> None:
    """Ten images of each class."""
    noise = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(
                root / label / f"{number}.png"
            )


def test_the_manifest_says_where_the_data_is(digits: Version, digits_data: RunData) -> None:
    """Without --data the training's own command tells, and the digest that it is the same."""
    assert find_data(digits, ()) == ("digits",)
    assert same_data(digits, digits_data)
    assert {
        name: len(part) for name, part in vars(digits_data.split).items()
    } == digits.manifest.training.data.split  # type: ignore[union-attr]


def test_the_split_is_the_trainings(finished_run: RunDirectory, digits_data: RunData) -> None:
    """Image by image, so that nothing is gated on what was learned."""
    split = open_run_data(finished_run).split
    for name, part in vars(split).items():
        assert np.array_equal(getattr(digits_data.split, name), part)


def test_an_image_that_the_version_knows_is_never_in_test(
    digits: Version, digits_data: RunData, tmp_path: Path
) -> None:
    """A version that went on from another carries what both learned from; the others of the test split stay in it."""
    known, others = digits_data.split.test[:10], digits_data.split.test[10:]
    learned = io.BytesIO()
    np.save(
        learned,
        np.array(
            [short_digest(digits_data.scan.facts[index].digest) for index in known], np.uint64
        ),
    )
    fields = {
        name: getattr(digits.manifest, name)
        for name in type(digits.manifest).model_fields
        if name not in {"files", "model"}
    }
    files: dict[str, bytes | Path] = {
        entry.path: digits.path(entry.path) for entry in digits.manifest.files
    }
    store = ModelStore(tmp_path / "store", builtin_root=None)
    store.publish("m", fields, files | {KNOWN_IMAGES_FILE: learned.getvalue()})
    with store.open("m", 1) as version:
        split = open_labelled(version, ()).split
    assert np.array_equal(split.test, others)
    assert set(known) <= set(split.train)


def test_data_that_is_not_here_is_asked_for() -> None:
    """The built-in cifar10 was trained on a folder; without it the person must say where it is."""
    with (
        BUILTIN.open("cifar10", 1) as version,
        pytest.raises(QuantizationError, match="cifar10-jpeg, which is not here: give labelled"),
    ):
        find_data(version, ())


def test_other_images_of_its_classes_will_do(digits: Version, tmp_path: Path) -> None:
    """A person's own pictures of some of the classes count at the version's own positions."""
    make_pictures(tmp_path, "73")
    data = open_labelled(digits, (str(tmp_path),))
    assert not same_data(digits, data)
    assert set(data.images.labels.tolist()) == {3, 7}
    assert data.images.class_names == digits.manifest.class_names


def test_images_of_other_classes_are_refused(digits: Version, tmp_path: Path) -> None:
    """A label that the model can not give says nothing of it."""
    make_pictures(tmp_path, "7x")
    with pytest.raises(DataError, match="classes that digits-resnet20/1 does not have: x"):
        open_labelled(digits, (str(tmp_path),))


def test_no_test_image_is_an_error(digits: Version, tmp_path: Path) -> None:
    """One image of a class trains, so none is left to gate on."""
    (tmp_path / "7").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "7" / "only.png")
    with pytest.raises(DataError, match="no image left for validation and test"):
        open_labelled(digits, (str(tmp_path),))
