"""Measures abstention and prediction sets of calibrated runs on known and unknown images.

python benchmarks/abstention.py RUN… --unknown NAME=FOLDER…

Runs are computed with their exported files, as in the service. The test images of one run are
unknown to the others; noise and the images of a FOLDER are unknown to all. Prints Markdown tables;
`--out FILE` appends them to a file.
"""

import argparse
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe_machine
from sklearn.metrics import roc_auc_score

from model_store.errors import ImageError
from model_store.manifest import Calibration
from model_store.preprocessing import prepare
from model_store.session import Session, probabilities
from model_store.uncertainty import energy, set_sizes
from training.data.sampling import evenly_spaced
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.run.inference import run_in_batches
from training.steps.calibrate import read_calibration
from training.steps.export import MODEL_FILE, OUTPUTS, model_input

PACKAGES = ("torch", "onnxruntime", "numpy", "scipy", "pillow")
LIMIT = 2000
BATCH = 32


@dataclass(frozen=True)
class CalibratedRun:
    name: str
    architecture: str
    data: RunData
    calibration: Calibration
    session: Session

    def logits(self, images: Iterable[bytes | np.ndarray]) -> np.ndarray:
        """Logits, float32 `[images, classes]`; images that the service rejects are left out."""
        return run_in_batches(self.session, np.stack(list(self.pixels(images))), BATCH)

    def pixels(self, images: Iterable[bytes | np.ndarray]) -> Iterator[np.ndarray]:
        """Prepared pixels of encoded images; pixels are passed through."""
        for image in images:
            with contextlib.suppress(ImageError):
                yield prepare(image, self.data.preprocessing) if isinstance(image, bytes) else image


def open_calibrated_run(path: Path) -> CalibratedRun:
    """Open a calibrated run. Exits with a message if it is not calibrated."""
    run = Run.open(path)
    calibration, config = read_calibration(run).calibration, run.config
    if calibration is None or calibration.energy_threshold is None:
        raise SystemExit(
            f"{path} cannot abstain: calibrate it first, on at least 59 validation images"
        )
    session = Session(run.file(MODEL_FILE, "export"), model_input(run), OUTPUTS)
    return CalibratedRun(
        config.model, config.architecture, open_run_data(run), calibration, session
    )


def sample_indices(items: Sequence[Path] | np.ndarray) -> list[int]:
    """Evenly spaced indices of at most LIMIT items."""
    return evenly_spaced(np.arange(len(items)), LIMIT).tolist()


def unknown_to(
    subject: CalibratedRun, others: Sequence[CalibratedRun], folders: dict[str, Path]
) -> Iterator[tuple[str, np.ndarray]]:
    """Description and logits of images that the subject was not trained on."""
    for other in others:
        if other is not subject:
            test = other.data.split.test
            encoded = other.data.images.encoded
            yield (
                f"test images of {other.name}",
                subject.logits(encoded[test[place]] for place in sample_indices(test)),
            )
    shape = (subject.data.preprocessing.crop_height, subject.data.preprocessing.crop_width, 3)
    chance = np.random.default_rng(0)
    yield (
        "uniform noise",
        subject.logits(chance.integers(0, 256, shape, np.uint8) for _ in range(LIMIT)),
    )
    gaussian = (chance.normal(128, 64, shape).clip(0, 255).astype(np.uint8) for _ in range(LIMIT))
    yield "Gaussian noise (128 ± 64)", subject.logits(gaussian)
    for name, folder in folders.items():
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        yield name, subject.logits(files[place].read_bytes() for place in sample_indices(files))


def coverage_rows(subject: CalibratedRun) -> Iterator[str]:
    """How often prediction sets contain the label, by the threshold alone and as answered."""
    test = subject.data.split.test
    calibrated = probabilities(
        subject.logits(subject.data.images.encoded[index] for index in test),
        OUTPUTS,
        subject.calibration.temperature,
    )
    of_label = calibrated[np.arange(len(test)), subject.data.images.labels[test]]
    place = (calibrated > of_label[:, np.newaxis]).sum(axis=1)
    for coverage, threshold in subject.calibration.conformal_thresholds.items():
        sizes = set_sizes(calibrated, np.array([threshold], np.float32))[:, 0]
        above = (of_label >= threshold).mean()
        yield (
            f"| {subject.name} | {coverage} | {threshold:.4f} | {above:.2%} "
            f"| {(place < sizes).mean():.2%} | {sizes.mean():.3f} |"
        )


def abstention_rows(
    subject: CalibratedRun, others: Sequence[CalibratedRun], folders: dict[str, Path]
) -> Iterator[str]:
    """Abstention on own test images and on unknown images, and the AUROC of the energy."""
    encoded, test, threshold = (
        subject.data.images.encoded,
        subject.data.split.test,
        subject.calibration.energy_threshold,
    )
    own = energy(subject.logits(encoded[index] for index in test))
    yield f"| {subject.name} | own test images | {len(own):,} | {(own > threshold).mean():.2%} | |"
    for name, logits in unknown_to(subject, others, folders):
        unknown = energy(logits)
        auroc = roc_auc_score(
            np.repeat([0, 1], [len(own), len(unknown)]), np.concatenate([own, unknown])
        )
        abstained = (unknown > threshold).mean()
        yield f"| {subject.name} | {name} | {len(unknown):,} | {abstained:.1%} | {auroc:.3f} |"


def named_folder(text: str) -> tuple[str, Path]:
    """Parse NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not name or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(
            f"expected NAME=FOLDER with an existing folder, got {text!r}"
        )
    return name, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--unknown",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="images that no run was trained on; can be repeated",
    )
    parser.add_argument("--out", type=Path, help="append the tables to this file")
    options = parser.parse_args()
    subjects = [open_calibrated_run(path) for path in options.runs]
    architectures = "; ".join(f"{each.name}: {each.architecture}" for each in subjects)
    lines = [
        f"{describe_machine(PACKAGES)}. {architectures}.",
        "",
    ]
    lines += [
        "| model | requested coverage | threshold | by threshold alone | as answered | labels |",
        "|---|---|---|---|---|---|",
    ]
    lines += [row for subject in subjects for row in coverage_rows(subject)]
    lines += ["", "| model | images | n | abstained | AUROC |", "|---|---|---|---|---|"]
    lines += [
        row
        for subject in subjects
        for row in abstention_rows(subject, subjects, dict(options.unknown))
    ]
    text = "\n".join([*lines, ""])
    print(text)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


if __name__ == "__main__":
    main()
