"""What `--data` takes, and merging of several data sets."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, numbered, picture, put

from model_store.manifest import Preprocessing
from model_store.preprocessing import prepare
from training.data.image_set import FREE, TEST, TRAIN
from training.data.sources import load_data, merge, resolve_source
from training.errors import DataError

SPEC = Preprocessing(resize=8, crop_height=8, crop_width=8)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="digits, fashion-mnist, cifar10, cifar100"):
        load_data("mnist")


def test_invalid_names_are_refused_before_any_work(tmp_path: Path) -> None:
    """An archive, and a --data-dir that does not exist."""
    put(tmp_path, {"pets.zip": b""})
    with pytest.raises(DataError, match=r"pets\.zip .*unpack"):
        resolve_source(str(tmp_path / "pets.zip"))
    with pytest.raises(DataError, match=r"--data-dir .*missing"):
        resolve_source("cifar10", tmp_path / "missing")
    assert resolve_source("cifar10", tmp_path) == "cifar10"


def test_a_known_name_that_is_a_folder_too_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path such as ./digits is the folder. With --data-dir, the known data set is meant."""
    put(tmp_path, {"digits/cat/1.png": 1, "digits/dog/1.png": 2, "cifar10/x.bin": b""})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"Write \./digits for the folder"):
        resolve_source("digits")
    folder = resolve_source("./digits")
    assert folder == str(tmp_path / "digits")
    assert resolve_source("cifar10", tmp_path / "cifar10") == "cifar10"
    monkeypatch.chdir("/")
    assert len(load_data(folder)) == 2
    assert len(load_data("digits")) == 1797


def test_a_link_gives_its_own_name_to_the_data(tmp_path: Path) -> None:
    put(tmp_path, {"real/cat/1.png": 1, "real/dog/1.png": 2})
    (tmp_path / "pets").symlink_to("real")
    assert load_data(resolve_source(str(tmp_path / "pets"))).name == "pets"


def test_pixels_are_those_of_prepare_for_any_number_of_workers(tmp_path: Path) -> None:
    """In the requested order; no positions give no pixels."""
    data = load_data(str(put(tmp_path, numbered("cat", 9) | {"dog/1.png": 10})))
    chosen = np.array([9, 3, 3, 0])
    pixels = data.pixels(chosen, SPEC, workers=3)
    assert np.array_equal(
        pixels, np.stack([prepare(data.encoded[index], SPEC) for index in chosen])
    )
    assert np.array_equal(pixels, data.pixels(chosen, SPEC))
    assert data.pixels(chosen[:0], SPEC).shape == (0, 8, 8, 3)


def test_an_image_that_breaks_later_is_named(tmp_path: Path) -> None:
    """A file may be truncated or removed during a run."""
    data = load_data(str(put(tmp_path, numbered("cat", 2) | {"dog/1.png": 10})))
    Path(data.locations[0]).write_bytes(encoded(picture(1))[:60])
    Path(data.locations[1]).unlink()
    with pytest.raises(DataError, match=r"cat/0\.png"):
        data.pixels(np.array([0]), SPEC)
    with pytest.raises(DataError, match=r"cat/1\.png.*No such file"):
        data.pixels(np.array([1]), SPEC)


def test_sets_are_merged_by_the_names_of_their_classes(tmp_path: Path) -> None:
    """A label is another position in each set."""
    old = load_data(
        str(
            put(
                tmp_path / "pets",
                {"train/cat/1.png": 1, "train/dog/1.png": 2, "test/dog/1.png": 3, "x.txt": b""},
            )
        )
    )
    new = load_data(str(put(tmp_path / "new" / "pets", {"ant/1.png": 4, "dog/1.png": 5})))
    data = merge([old, new])
    assert data.name == "pets+pets-2"
    assert data.class_names == ("ant", "cat", "dog")
    assert [data.label(index) for index in range(5)] == ["cat", "dog", "dog", "ant", "dog"]
    assert list(data.paths) == [
        "pets/train/cat/1.png",
        "pets/train/dog/1.png",
        "pets/test/dog/1.png",
        "pets-2/ant/1.png",
        "pets-2/dog/1.png",
    ]
    assert data.given_splits.tolist() == [TRAIN, TRAIN, TEST, FREE, FREE]
    assert [data.encoded[index] for index in range(5)] == [
        encoded(picture(seed)) for seed in range(1, 6)
    ]
    assert data.encoded[np.int64(-1)] == encoded(picture(5))
    assert [path for path, _ in data.ignored] == ["pets/x.txt"]
    assert data.identity not in {old.identity, new.identity, merge([new, old]).identity}
    with pytest.raises(IndexError):
        data.encoded[5]


def test_a_known_set_keeps_its_order_and_size_when_merged(tmp_path: Path) -> None:
    """Unless the other set has a new class."""
    digits = load_data("digits")
    official = replace(digits, class_names=digits.class_names[::-1])
    more = load_data(str(put(tmp_path / "more", {"7/1.png": 1, "3/1.png": 2})))
    other = load_data(str(put(tmp_path / "other", {"10/1.png": 1})))
    assert merge([digits]) is digits
    assert merge([more, official]).class_names == official.class_names
    assert merge([more, official]).preprocessing == digits.preprocessing
    assert merge([other, official]).class_names == tuple(map(str, range(11)))
