"""The training images of a version, with the split that it was trained on."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.store import BUILTIN_ROOT, ModelStore
from model_store.version import Version
from training.errors import DataError, QuantizationError
from training.quantization.version_data import find_sources, is_training_data, open_version_data
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.known_images import KNOWN_IMAGES_FILE, short_digest

BUILTIN = ModelStore(BUILTIN_ROOT, builtin_root=None)


def make_pictures(root: Path, labels: str) -> None:
    noise = np.random.default_rng(0)
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(10):
            Image.fromarray(noise.integers(0, 256, (8, 8, 3), np.uint8)).save(
                root / label / f"{number}.png"
            )


def test_the_manifest_states_the_training_data(digits: Version, digits_data: RunData) -> None:
    """The training command names it, and the digest confirms it."""
    assert find_sources(digits, ()) == ("digits",)
    assert is_training_data(digits, digits_data)
    assert {
        name: len(part) for name, part in vars(digits_data.split).items()
    } == digits.manifest.training.data.split  # type: ignore[union-attr]


def test_the_split_is_the_one_of_training(
    new_run: Callable[..., Run], digits_data: RunData
) -> None:
    split = open_run_data(new_run()).split
    for name, part in vars(split).items():
        assert np.array_equal(getattr(digits_data.split, name), part)


def test_an_image_that_the_version_has_learned_is_never_in_test(
    digits: Version, digits_data: RunData, tmp_path: Path
) -> None:
    """A retrained version lists the images of both runs. The rest of the test split stays."""
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
        split = open_version_data(version, ()).split
    assert np.array_equal(split.test, others)
    assert set(known) <= set(split.train)


def test_data_that_cannot_be_found_is_required() -> None:
    """The built-in cifar10 was trained on a folder."""
    with (
        BUILTIN.open("cifar10", 1) as version,
        pytest.raises(QuantizationError, match=r"cifar10-jpeg.*--data"),
    ):
        find_sources(version, ())


def test_other_images_of_the_same_classes_are_accepted(digits: Version, tmp_path: Path) -> None:
    """Their labels are the version's own class indices."""
    make_pictures(tmp_path, "73")
    data = open_version_data(digits, (str(tmp_path),))
    assert not is_training_data(digits, data)
    assert set(data.images.labels.tolist()) == {3, 7}
    assert data.images.class_names == digits.manifest.class_names


def test_images_of_other_classes_are_refused(digits: Version, tmp_path: Path) -> None:
    make_pictures(tmp_path, "7x")
    with pytest.raises(DataError, match="digits-resnet20/1 does not have: x"):
        open_version_data(digits, (str(tmp_path),))


def test_an_empty_split_is_refused(digits: Version, tmp_path: Path) -> None:
    """A single image of a class is used for training."""
    (tmp_path / "7").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "7" / "only.png")
    with pytest.raises(DataError, match="validation and test"):
        open_version_data(digits, (str(tmp_path),))
