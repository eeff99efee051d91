"""Labels in file names: which names have one, and the CSV that they are written to."""

from pathlib import Path

import pytest
from pictures import put

from training.data.file_name_labels import NamedImages, label_in_name, write_labels
from training.data.image_set import FREE, TEST, TRAIN
from training.data.sources import load_data
from training.errors import DataError


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("train/cat.0.jpg", "cat"),
        ("n01440764_10026.JPEG", "n01440764"),
        ("american_pit_bull_12.jpg", "american_pit_bull"),
        ("Big Cat (3).png", "Big Cat"),
        ("cat12.png", "cat"),
        ("12.jpg", None),
        ("cat.jpg", None),
        ("_.1.png", None),
    ],
)
def test_a_label_is_what_is_before_the_number(name: str, label: str | None) -> None:
    assert label_in_name(name) == label


def test_the_csv_has_the_labels_and_splits_of_the_names(tmp_path: Path) -> None:
    """Of Kaggle's layout: images without a label are left out."""
    names = ("train/cat.0.png", "train/dog, big.1.png", "test/1.png", "test/cat.9.png", "dog.2.png")
    put(tmp_path / "pets", {name: seed for seed, name in enumerate(names)})
    (tmp_path / "lists").mkdir()
    target = tmp_path / "lists" / "labels.csv"
    assert write_labels(tmp_path / "pets", target) == NamedImages(4, 1)
    data = load_data(str(target))
    found = {
        path.rpartition("/")[2]: (data.label(index), int(data.given_splits[index]))
        for index, path in enumerate(data.paths)
    }
    assert found == {
        "cat.0.png": ("cat", TRAIN),
        "dog, big.1.png": ("dog, big", TRAIN),
        "cat.9.png": ("cat", TEST),
        "dog.2.png": ("dog", FREE),
    }
    with pytest.raises(DataError, match="exists"):
        write_labels(tmp_path / "pets", target)


def test_names_without_labels_are_refused(tmp_path: Path) -> None:
    root = put(tmp_path / "pets", {"cat.1.png": 1, "2.png": 2})
    with pytest.raises(DataError, match="fewer than two labels"):
        write_labels(root, tmp_path / "labels.csv")
    assert not (tmp_path / "labels.csv").exists()
