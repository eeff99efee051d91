"""The data of a run: scanned, checked, split, and decoded by the store's preprocessing."""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from model_store.command_line import as_called
from model_store.geometry import without_crop
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare
from training.data.check import check, left_out
from training.data.decode_workers import decode_threads
from training.data.findings import DataFindings
from training.data.sampling import evenly_spaced
from training.data.scan import Scan, scan
from training.data.sources import ImageSet, Indices, is_known, load_data, merge, with_classes
from training.data.split import SPLIT_SEED, Split, make_split, read_split, write_split
from training.errors import DataError, RunError
from training.learning.batches import PixelsFromWorkers, PixelsOnDevice, PixelSource
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.directory import Run, damaged_file_error
from training.run.known_images import known_digests, read_known_images

CHECK_FILE: Final = "check.json"
SPLIT_FILE: Final = "split.csv"
PIXEL_CHUNK_SIZE: Final = 256
NORMALIZATION_SAMPLE_SIZE: Final = 4096


@dataclass(frozen=True)
class RunData:
    """The images of a run, their split, and what the checks found.

    Attributes:
        images: All images, encoded.
        scan: Size and digest of each image; its pixels too if all of them fit into memory.
        findings: Results of the data checks.
        split: Indices of the train, validation and test images.
        left_out: Images that are in no split: the reason by index.
        preprocessing: Steps from encoded images to the input of the network.
        workers: Number of threads that decode, outside the training loop.
        train_on_validation: Whether validation images are trained on too.
    """

    images: ImageSet
    scan: Scan
    findings: DataFindings
    split: Split
    left_out: Mapping[int, str]
    preprocessing: Preprocessing
    workers: int
    train_on_validation: bool = False

    @property
    def digest(self) -> str:
        """Hex sha256 over the pixels and the label of every image."""
        return self.scan.digest

    @property
    def training_indices(self) -> Indices:
        """The images that are trained on, int64 `[n]`."""
        split = self.split
        return (
            np.union1d(split.train, split.validation) if self.train_on_validation else split.train
        )

    @property
    def uncropped_pixels(self) -> Pixels | None:
        """All images as training reads them, uint8 `[n, height, width, 3]`; None if too many."""
        return self.scan.pixels

    def labels(self, indices: Indices) -> Tensor:
        """Return the labels of these images, int64 `[n]`."""
        return torch.from_numpy(self.images.labels[indices])

    def chunks(self, indices: Indices) -> Iterator[Pixels]:
        """Yield these images as the service prepares them, uint8 `[k, height, width, 3]`."""
        uncropped = without_crop(self.preprocessing) == self.preprocessing
        pixels = self.uncropped_pixels if uncropped else None
        for start in range(0, len(indices), PIXEL_CHUNK_SIZE):
            chunk = indices[start : start + PIXEL_CHUNK_SIZE]
            yield (
                self.images.pixels(chunk, self.preprocessing, self.workers)
                if pixels is None
                else pixels[chunk]
            )

    def normalization_sample(self) -> Pixels:
        """Return training images for mean and deviation: all if in memory, otherwise a sample."""
        if self.uncropped_pixels is not None:
            return self.uncropped_pixels[self.training_indices]
        sample = evenly_spaced(self.training_indices, NORMALIZATION_SAMPLE_SIZE)
        return self.images.pixels(sample, without_crop(self.preprocessing), self.workers)

    def training_source(self, device: torch.device, workers: int) -> PixelSource:
        """Return the source of training pixels; position i is the i-th of `training_indices`.

        Args:
            device: Where the pixels are needed.
            workers: Processes that decode, if not all pixels are in memory; 0 for this process.
        """
        if self.uncropped_pixels is None:
            return self.streamed_source(device, workers)
        pixels = self.uncropped_pixels[self.training_indices]
        return PixelsOnDevice(torch.from_numpy(pixels), device)

    def streamed_source(self, device: torch.device, workers: int) -> PixelsFromWorkers:
        """Return a source that decodes each image when it is needed."""
        spec = without_crop(self.preprocessing)
        decoded = _DecodedImages(self.images, self.training_indices, spec)
        return PixelsFromWorkers(decoded, workers, device)


class _DecodedImages(Dataset[Tensor]):
    # holds no Python list, which worker processes would copy (pytorch#13246)
    def __init__(self, images: ImageSet, indices: Indices, spec: Preprocessing) -> None:
        self._images, self._indices, self._spec = images, indices, spec

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> Tensor:
        encoded = self._images.encoded[self._indices[position]]
        return torch.from_numpy(prepare(encoded, self._spec).copy())


def load_images(names: Sequence[str], data_dir: Path | None) -> ImageSet:
    """List one or several sources as one set, without decoding. Raises DataError."""
    return merge([load_data(name, data_dir) for name in names])


def open_run_data(
    run: Run,
    progress: Callable[[int, int], None] = lambda *_: None,
    process: DistributedProcess = SINGLE_PROCESS,
    images: ImageSet | None = None,
) -> RunData:
    """Scan, check and split the data of a run. The first call writes `check.json` and `split.csv`.

    Args:
        run: The run.
        progress: Called with (images done, images in all).
        process: This process of a distributed training.
        images: The images of the run, if the caller has listed them already.

    Raises:
        DataError: The data cannot be trained on.
        RunError: The data has changed since the run began.
    """
    workers = decode_threads(process.workers)
    if process.is_main:
        data = _open(run, progress, workers, images)
        if run.is_moved:
            run.write_config()
    process.barrier()  # the first process writes caches and files that the others then read
    return data if process.is_main else _open(run, progress, workers, images)


def _open(
    run: Run, progress: Callable[[int, int], None], workers: int, images: ImageSet | None
) -> RunData:
    config = run.config
    if images is None:
        _require_present(run)
        data_dir = None if config.data_dir is None else Path(config.data_dir)
        images = load_images(config.data, data_dir)
    if config.class_names is not None:
        images = with_classes(images, config.class_names)
    scanned = scan(images, without_crop(config.preprocessing), workers, progress)
    known = known_digests(scanned, read_known_images(run))
    findings = check(images, scanned.facts, known)
    if not run.has(SPLIT_FILE):
        _split(run, images, scanned, findings, known)
    checked = run.read_json(CHECK_FILE, "resume")
    if not isinstance(checked, dict) or "data_digest" not in checked:
        raise damaged_file_error(run.path / CHECK_FILE, ValueError("`data_digest` is missing"))
    if checked["data_digest"] != scanned.digest:
        raise RunError(
            f"{', '.join(config.data)} contains other images than {run.path} began with; give "
            "every source of the run with --data, and --data-dir if the run has one"
            if run.is_moved
            else f"{images.name} has changed since {run.path} began with it; start a new run"
        )
    try:
        split, excluded = read_split(run.file(SPLIT_FILE, "resume").read_bytes(), images)
    except DataError as error:
        raise damaged_file_error(run.path / SPLIT_FILE, error) from None
    return RunData(
        images,
        scanned,
        findings,
        split,
        excluded,
        config.preprocessing,
        workers,
        train_on_validation=config.recipe.learn_validation,
    )


def _require_present(run: Run) -> None:
    config = run.config
    moved = {source for source in config.data if not is_known(source) and not Path(source).exists()}
    options = [("--data", "NEW" if name in moved else name) for name in config.data if moved]
    if config.data_dir and not Path(config.data_dir).exists():
        moved.add(config.data_dir)
        options.append(("--data-dir", "NEW"))
    if moved:
        words = shlex.join([str(run.path), *chain(*options)])
        raise RunError(
            f"{run.path} began with {', '.join(sorted(moved))}, which no longer exists. Put "
            f"it back, or give its new path: {as_called('training resume')} {words}"
        )


def _split(
    run: Run, images: ImageSet, scanned: Scan, findings: DataFindings, known: Collection[str]
) -> None:
    if findings.fatal:
        raise DataError(f"{images.name} cannot be trained on: {'; '.join(findings.fatal)}")
    excluded = left_out(images, scanned.facts, known)
    split = make_split(images, scanned.facts, excluded, SPLIT_SEED, known)
    if not len(split.validation):
        raise DataError(
            f"{images.name} has no image for the validation split: add images, or remove the "
            "given split, so that one is drawn"
        )
    if not len(split.test):
        raise DataError(
            f"{images.name} has no image for the test split: {run.config.start} was trained on "
            f"{len(known):,} of its images, and its accuracy on those means nothing. Add images "
            "that it was not trained on"
        )
    run.write_json(CHECK_FILE, {"data_digest": scanned.digest, **findings.to_json()})
    run.write(SPLIT_FILE, write_split(split, images, excluded))
