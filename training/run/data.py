"""A run's data: checked, split once and for all, and turned into pixels through the store's preprocessing."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare
from model_store.version import Version
from training.data.check import DataFindings, check, left_out
from training.data.image_set import TEST
from training.data.sampling import evenly_spaced
from training.data.scan import Scan, scan
from training.data.sources import ImageSet, Indices, load_data, merge, with_classes
from training.data.split import (
    SPLIT_SEED,
    Split,
    make_split,
    missing_splits,
    read_split,
    write_split,
)
from training.errors import DataError, RunError
from training.learning.batches import PixelsFromWorkers, PixelsOnDevice, PixelSource
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.directory import RunDirectory, damaged

CHECK_FILE: Final = "check.json"
SPLIT_FILE: Final = "split.csv"
KNOWN_IMAGES_FILE: Final = "known_images.npy"
PIXEL_CHUNK_SIZE: Final = 256
NORMALIZATION_SAMPLE_SIZE: Final = 4096


@dataclass(frozen=True)
class RunData:
    """Images with their split, and what was found in them. `workers` threads or processes decode.

    `learned` are the images that are trained on: the train split, and validation too where the recipe says so.
    """

    images: ImageSet
    scan: Scan
    findings: DataFindings
    split: Split
    learned: Indices
    left_out: Mapping[int, str]
    preprocessing: Preprocessing
    workers: int

    @property
    def digest(self) -> str:
        """What the manifest says of the data: hex sha256 over every image's pixels and label."""
        return self.scan.digest

    @property
    def canvas(self) -> Pixels | None:
        """All images at the size that training cuts its windows from, uint8 `[n, side, side, 3]`; None where they are too many."""
        return self.scan.pixels

    def labels(self, indices: Indices) -> Tensor:
        """Labels of these images, int64 `[n]`."""
        return torch.from_numpy(self.images.labels[indices])

    def chunks(self, indices: Indices) -> Iterator[Pixels]:
        """These images as the service would see them, uint8 `[k, height, width, 3]`, a chunk at a time."""
        canvas = self.canvas if canvas_of(self.preprocessing) == self.preprocessing else None
        for start in range(0, len(indices), PIXEL_CHUNK_SIZE):
            chunk = indices[start : start + PIXEL_CHUNK_SIZE]
            yield (
                self.images.pixels(chunk, self.preprocessing, self.workers)
                if canvas is None
                else canvas[chunk]
            )

    def training_sample(self) -> Pixels:
        """Training images to take the mean and the deviation of: all of them in memory, else some of each part."""
        if self.canvas is not None:
            return self.canvas[self.learned]
        sample = evenly_spaced(self.learned, NORMALIZATION_SAMPLE_SIZE)
        return self.images.pixels(sample, canvas_of(self.preprocessing), self.workers)

    def training_source(self, device: torch.device) -> PixelSource:
        """The training images for a loader; position i is the i-th of `learned`."""
        if self.canvas is not None:
            return PixelsOnDevice(torch.from_numpy(self.canvas[self.learned]), device)
        return PixelsFromWorkers(
            _Decoded(self.images, self.learned, canvas_of(self.preprocessing)), self.workers, device
        )


class _Decoded(Dataset[Tensor]):
    """One training image by its position, decoded; holds no Python list that worker processes would copy (pytorch#13246)."""

    def __init__(self, images: ImageSet, indices: Indices, spec: Preprocessing) -> None:
        self._images, self._indices, self._spec = images, indices, spec

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Tensor:
        return torch.from_numpy(
            prepare(self._images.encoded[self._indices[position]], self._spec).copy()
        )


def canvas_of(spec: Preprocessing) -> Preprocessing:
    """What training sees of an image before it augments: the resized image without the crop to the model's size."""
    return spec.model_copy(update={"crop_height": spec.resize, "crop_width": spec.resize})


def load_images(names: Sequence[str], data_dir: Path | None) -> ImageSet:
    """One or several sources as one set. Raises DataError."""
    return merge([load_data(name, data_dir) for name in names])


def open_run_data(
    run: RunDirectory,
    progress: Callable[[int, int], None] = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
    workers: int = 2,
) -> RunData:
    """Load, check and split the run's data; the first time, leave `check.json` and `split.csv`.

    Raises DataError where the data can not be trained on, RunError where it has changed since the run began.
    """
    if process.is_main:
        data = _open(run, progress, workers)
    process.barrier()  # the first process leaves caches and files that the others then read
    return data if process.is_main else _open(run, progress, workers)


def _open(run: RunDirectory, progress: Callable[[int, int], None], workers: int) -> RunData:
    config = run.config()
    images = load_images(config.data, None if config.data_dir is None else Path(config.data_dir))
    if config.class_names is not None:
        images = with_classes(images, config.class_names)
    scanned = scan(images, canvas_of(config.preprocessing), workers, progress)
    findings = check(images, scanned.facts)
    if not run.has(SPLIT_FILE):
        if findings.fatal:
            raise DataError(f"{images.name} can not be trained on: {'; '.join(findings.fatal)}")
        excluded = left_out(images, scanned.facts)
        split = make_split(
            images,
            scanned.facts,
            excluded,
            SPLIT_SEED,
            known_digests(scanned, read_known_images(run)),
        )
        run.write_json(CHECK_FILE, {"data_digest": scanned.digest, **findings.to_json()})
        run.write(SPLIT_FILE, write_split(split, images, excluded))
    checked = run.read_json(CHECK_FILE, "resume")
    if not isinstance(checked, dict) or "data_digest" not in checked:
        raise damaged(run.path / CHECK_FILE, ValueError("it does not say which data was checked"))
    if checked["data_digest"] != scanned.digest:
        raise RunError(
            f"{run.path} was begun with other data than {images.name} holds now; start a new run"
        )
    try:
        split, excluded = read_split(run.file(SPLIT_FILE, "resume").read_bytes(), images)
    except DataError as error:
        raise damaged(run.path / SPLIT_FILE, error) from None
    learned = (
        np.union1d(split.train, split.validation) if config.recipe.learn_validation else split.train
    )
    return RunData(
        images, scanned, findings, split, learned, excluded, config.preprocessing, workers
    )


def known_images(run: RunDirectory, data: RunData) -> bytes | None:
    """The first 8 bytes of the digest of each image that the run, or one before it, has learned from, as `.npy`.

    None where the test split was given with the data: then nobody draws a test image from these. Images that only chose the
    epoch are not counted: drawn by a hash of their pixels, they stay in validation of themselves.
    """
    if TEST not in missing_splits(data.images) and not run.has(KNOWN_IMAGES_FILE):
        return None
    own = np.array(
        [short_digest(data.scan.facts[index].digest) for index in data.learned], np.uint64
    )
    buffer = io.BytesIO()
    np.save(buffer, np.union1d(own, read_known_images(run)), allow_pickle=False)
    return buffer.getvalue()


def read_known_images(run: RunDirectory) -> NDArray[np.uint64]:
    """What `known_images` gave for the version that this run goes on from; empty where it goes on from none."""
    return (
        read_known(run.path / KNOWN_IMAGES_FILE)
        if run.has(KNOWN_IMAGES_FILE)
        else np.empty(0, np.uint64)
    )


def read_known(path: Path) -> NDArray[np.uint64]:
    """What `known_images` gave, from a file. Raises RunError where it is damaged."""
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.uint64)
    except (OSError, ValueError, EOFError) as error:
        raise damaged(path, error) from None


def read_version_known_images(version: Version) -> NDArray[np.uint64]:
    """What `known_images` gave for a published version; empty where nothing was kept. Raises RunError where it is damaged."""
    kept = KNOWN_IMAGES_FILE in {entry.path for entry in version.manifest.files}
    return read_known(version.path(KNOWN_IMAGES_FILE)) if kept else np.empty(0, np.uint64)


def known_digests(scanned: Scan, known: NDArray[np.uint64]) -> set[str]:
    """The digests of the scanned images that are among the known ones."""
    among = set(known.tolist())
    return {
        fact.digest for fact in scanned.facts if fact.digest and short_digest(fact.digest) in among
    }


def is_known_image(data: RunData, indices: Indices, known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of these images are among the known ones, bool `[n]`."""
    return np.isin(
        np.array([short_digest(data.scan.facts[index].digest) for index in indices], np.uint64),
        known,
    )


def short_digest(digest: str) -> int:
    """The first 8 bytes of a digest, as `known_images` keeps them."""
    return int(digest[:16], 16)
