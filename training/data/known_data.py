"""Known data sets: the digits of scikit-learn, and data sets that torchvision reads."""

import gzip
import hashlib
import pickle
import shutil
import socket
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels
from training.data.image_set import FREE, TEST, TRAIN, ImageSet, Indices
from training.data.lazy_columns import PngColumn, TextColumn
from training.errors import DataError

DATA_DIR: Final = Path("data")
DOWNLOAD_TIMEOUT_SECONDS: Final = 30.0
_BLACK: Final = (0, 0, 0)
_READ_ERRORS: Final = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    AssertionError,
    pickle.UnpicklingError,
    tarfile.TarError,
    zlib.error,
)
"""Exceptions that torchvision raises for missing, damaged or unavailable files."""


@dataclass(frozen=True)
class _TorchvisionDataset:
    """A data set of torchvision.

    Attributes:
        class_name: The name of torchvision's class.
        folder: The subfolder that the class reads.
        advice: How to get the files without torchvision's download.
    """

    class_name: str
    folder: str
    source: str
    licence: str
    preprocessing: Preprocessing
    advice: str

    @property
    def read(self) -> Callable[..., Any]:
        """The class of torchvision. It is imported on first use, because that takes seconds."""
        from torchvision import datasets

        read: Callable[..., Any] = getattr(datasets, self.class_name)
        return read


_TORCHVISION_DATASETS: Final[Mapping[str, _TorchvisionDataset]] = MappingProxyType(
    {
        "fashion-mnist": _TorchvisionDataset(
            "FashionMNIST",
            "FashionMNIST",
            "Fashion-MNIST (Xiao, Rasul, Vollgraf 2017)",
            "MIT",
            Preprocessing(resize=28, crop_height=28, crop_width=28, background=_BLACK),
            "download the four .gz files from https://github.com/zalandoresearch/fashion-mnist, "
            "or install Debian's package dataset-fashion-mnist "
            "(files in /usr/share/datasets/fashion-mnist)",
        ),
        "cifar10": _TorchvisionDataset(
            "CIFAR10",
            "cifar-10-batches-py",
            "CIFAR-10 (Krizhevsky 2009)",
            "",
            Preprocessing(resize=32, crop_height=32, crop_width=32),
            "download https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
        "cifar100": _TorchvisionDataset(
            "CIFAR100",
            "cifar-100-python",
            "CIFAR-100 (Krizhevsky 2009)",
            "",
            Preprocessing(resize=32, crop_height=32, crop_width=32),
            "download https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
    }
)

KNOWN_DATASETS: Final = ("digits", *_TORCHVISION_DATASETS)


def load_known(name: str, data_dir: Path | None = None) -> ImageSet:
    """Load one of KNOWN_DATASETS.

    Classes have their official order. All sets except `digits` have their official test split.

    Args:
        name: One of KNOWN_DATASETS.
        data_dir: Folder with the files, `data/` by default. Missing files are downloaded to it.

    Raises:
        DataError: The files are missing and cannot be downloaded; the message says how to get them.
    """
    return _load_digits() if name == "digits" else _load_published(name, data_dir or DATA_DIR)


def _load_digits() -> ImageSet:
    """1,797 handwritten digits of 43 people, 8x8 pixels with values of 0 to 16, bright on black."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    paths = TextColumn(f"digits/{number:04}" for number in range(len(digits.target)))
    return ImageSet(
        name="digits",
        source="scikit-learn load_digits: "
        "the test part of UCI's Optical Recognition of Handwritten Digits",
        licence="CC BY 4.0",
        paths=paths,
        locations=paths,
        encoded=PngColumn(np.round(digits.images * (255 / 16)).astype(np.uint8)),
        labels=digits.target.astype(np.int64),
        class_names=tuple(str(digit) for digit in range(10)),
        given_splits=np.full(len(paths), FREE, np.int8),
        identity="",
        preprocessing=Preprocessing(resize=32, crop_height=32, crop_width=32, background=_BLACK),
    )


def _load_published(name: str, data_dir: Path) -> ImageSet:
    dataset = _TORCHVISION_DATASETS[name]
    with _torchvision_root(dataset, data_dir) as root:
        parts = [_read(name, root, train=train) for train in (True, False)]
    images = np.concatenate([_images_of(part) for part in parts])
    labels: Indices = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])
    counts = [len(part.targets) for part in parts]
    paths = TextColumn(
        f"{name}/{split}/{number:05}"
        for split, count in zip(("train", "test"), counts, strict=True)
        for number in range(count)
    )
    return ImageSet(
        name=name,
        source=dataset.source,
        licence=dataset.licence,
        paths=paths,
        locations=paths,
        encoded=PngColumn(images),
        labels=labels,
        class_names=tuple(parts[0].classes),
        given_splits=np.repeat(np.array([TRAIN, TEST], np.int8), counts),
        identity=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        preprocessing=dataset.preprocessing,
    )


def _read(name: str, root: Path, *, train: bool) -> Any:
    """Read one split of a torchvision data set, and download it if files are missing."""
    dataset = _TORCHVISION_DATASETS[name]
    default_timeout = socket.getdefaulttimeout()
    # torchvision sets no timeout: if a firewall drops packets, it waits for minutes.
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        return dataset.read(root, train=train, download=True)
    except _READ_ERRORS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise DataError(
            f"{name} is not in {root} as torchvision expects it, and cannot be downloaded "
            f"({reason}). Without network access: {dataset.advice}, and pass the folder with "
            "--data-dir"
        ) from None
    finally:
        socket.setdefaulttimeout(default_timeout)


@contextmanager
def _torchvision_root(dataset: _TorchvisionDataset, data_dir: Path) -> Iterator[Path]:
    """Yield torchvision's `root`: `data_dir`, or its parent if `data_dir` is the data's own folder.

    If `data_dir` contains the .gz files of Fashion-MNIST, yield a temporary folder with the
    unpacked files.
    """
    archives = [data_dir / name for name, _ in getattr(dataset.read, "resources", ())]
    if not archives or not all(archive.is_file() for archive in archives):
        yield data_dir.parent if data_dir.name == dataset.folder else data_dir
        return
    with TemporaryDirectory() as root:
        raw = Path(root) / dataset.folder / "raw"
        raw.mkdir(parents=True)
        for archive in archives:
            try:
                with gzip.open(archive) as packed, open(raw / archive.stem, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked)
            except _READ_ERRORS as error:
                raise DataError(f"{archive} is damaged: {error}; download it again") from None
        yield Path(root)


def _images_of(part: Any) -> Pixels:
    return np.asarray(part.data, np.uint8)
