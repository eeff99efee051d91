"""Known data sets: the digits of scikit-learn, and data sets of torchvision."""

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from training.data.image_set import FREE, TEST, TRAIN
from training.data.sources import load_data
from training.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), np.uint8)
LABELS = np.array([9, 8, 7, 6, 5, 0], np.uint8)
FILES = {
    "train-images-idx3-ubyte": IMAGES[:4],
    "train-labels-idx1-ubyte": LABELS[:4],
    "t10k-images-idx3-ubyte": IMAGES[4:],
    "t10k-labels-idx1-ubyte": LABELS[4:],
}


def idx(values: np.ndarray) -> bytes:
    """MNIST's file format: magic number, sizes, bytes."""
    return (
        b"\0\0\x08"
        + bytes([values.ndim])
        + b"".join(size.to_bytes(4, "big") for size in values.shape)
        + values.tobytes()
    )


def test_digits_are_the_1797_real_ones_as_png() -> None:
    """Each is a PNG of 8x8 pixels that `prepare` scales to 32x32."""
    data = load_data("digits")
    assert len(data) == len(data.encoded) == len(data.labels) == 1797
    assert all(image.startswith(b"\x89PNG") for image in data.encoded)
    assert data.preprocessing is not None
    pixels = data.pixels(np.arange(5), data.preprocessing)
    assert pixels.shape == (5, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.max() > 200
    assert data.paths[17] == "digits/0017"
    assert data.class_names == tuple("0123456789")
    assert set(data.given_splits.tolist()) == {FREE}


@pytest.mark.parametrize("packed", [True, False], ids=["four .gz files", "torchvision's folders"])
def test_fashion_mnist_is_read_from_disk(tmp_path: Path, *, packed: bool) -> None:
    """From bare .gz files, as Debian has them, or from torchvision's folders."""
    folder = tmp_path if packed else tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in FILES.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(
            gzip.compress(idx(values)) if packed else idx(values)
        )
    data = load_data("fashion-mnist", tmp_path)
    assert data.class_names[0] == "T-shirt/top"
    assert data.labels.tolist() == LABELS.tolist()
    assert data.given_splits.tolist() == [TRAIN] * 4 + [TEST] * 2
    assert (data.paths[3], data.paths[4]) == (
        "fashion-mnist/train/00003",
        "fashion-mnist/test/00000",
    )
    assert data.preprocessing is not None
    assert np.array_equal(
        data.pixels(np.arange(6), data.preprocessing), np.repeat(IMAGES[..., None], 3, axis=3)
    )


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    for name, values in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
    cut = tmp_path / "t10k-images-idx3-ubyte.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz"):
        load_data("fashion-mnist", tmp_path)


@pytest.mark.parametrize("inside", [False, True])
def test_cifar10_is_read_with_its_official_classes_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, inside: bool
) -> None:
    """From the folder itself or from its parent."""
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    flat = np.random.default_rng(0).integers(0, 256, (2, 3 * 32 * 32), np.uint8)
    contents = {
        "data_batch_1": {"data": flat, "labels": [1, 0]},
        "test_batch": {"data": flat[:1], "labels": [1]},
        "batches.meta": {"label_names": ["zebra", "ant"]},
    }
    sums = {}
    for name, content in contents.items():
        (batches / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((batches / name).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    data = load_data("cifar10", batches if inside else tmp_path)
    assert data.class_names == ("zebra", "ant")
    assert data.labels.tolist() == [1, 0, 1]
    assert data.given_splits.tolist() == [TRAIN, TRAIN, TEST]
    assert data.preprocessing is not None
    assert np.array_equal(
        data.pixels(np.array([0]), data.preprocessing)[0],
        flat[0].reshape(3, 32, 32).transpose(1, 2, 0),
    )


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_without_a_network_the_error_says_how_to_get_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for kind in (datasets.FashionMNIST, datasets.CIFAR10, datasets.CIFAR100):
        monkeypatch.setattr(kind, "url", "http://127.0.0.1:1/x.tar.gz", raising=False)
        monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:1/"], raising=False)
    with pytest.raises(DataError, match=r"refused.*https://.*--data-dir"):
        load_data(name, tmp_path)
