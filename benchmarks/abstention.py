"""What calibration is worth: how often models abstain on their own test images and on what they do not know, and their sets.

`python benchmarks/abstention.py RUN… --unknown NAME=FOLDER…` takes calibrated runs and computes with their exported files, as the
service does. What one run was trained on is unknown to the others; noise, and every image file in a FOLDER, is unknown to all.
Prints tables in markdown; `--out FILE` writes them with the machine and the versions.
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
from training.run.directory import RunDirectory
from training.steps.calibrate import read_calibration
from training.steps.export import MODEL_FILE, OUTPUTS, model_input

PACKAGES = ("torch", "onnxruntime", "numpy", "scipy", "pillow")
LIMIT = 2000
BATCH = 32


@dataclass(frozen=True)
class Subject:
    """A calibrated run, ready to be asked."""

    name: str
    architecture: str
    data: RunData
    calibration: Calibration
    session: Session

    def logits(self, images: Iterable[bytes | np.ndarray]) -> np.ndarray:
        """float32 `[n, classes]` of encoded images, those that the service would refuse left out, or of pixels."""
        rows: list[np.ndarray] = []
        for chunk in batches(self.pixels(images)):
            rows.extend(self.session.run(np.stack(chunk)))
        return np.stack(rows)

    def pixels(self, images: Iterable[bytes | np.ndarray]) -> Iterator[np.ndarray]:
        """What the network sees of them."""
        for image in images:
            with contextlib.suppress(ImageError):
                yield prepare(image, self.data.preprocessing) if isinstance(image, bytes) else image


def batches(pixels: Iterable[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """Lists of at most BATCH."""
    batch = []
    for image in pixels:
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def open_subject(path: Path) -> Subject:
    """The run at this path. Leaves with a word where it is not calibrated."""
    run = RunDirectory(path)
    calibration, config = read_calibration(run).calibration, run.config()
    if calibration is None or calibration.energy_threshold is None:
        raise SystemExit(
            f"{path} can not abstain: calibrate it first, on at least 59 validation images"
        )
    session = Session(run.file(MODEL_FILE, "export"), model_input(run), OUTPUTS)
    return Subject(config.model, config.architecture, open_run_data(run), calibration, session)


def spread(items: Sequence[Path] | np.ndarray) -> list[int]:
    """Places of at most LIMIT of them, evenly."""
    return evenly_spaced(np.arange(len(items)), LIMIT).tolist()


def unknown_to(
    subject: Subject, others: Sequence[Subject], folders: dict[str, Path]
) -> Iterator[tuple[str, np.ndarray]]:
    """(what it is, logits) of what the subject was not trained on."""
    for other in others:
        if other is not subject:
            test = other.data.split.test
            encoded = other.data.images.encoded
            yield (
                f"test images of {other.name}",
                subject.logits(encoded[test[place]] for place in spread(test)),
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
        yield name, subject.logits(files[place].read_bytes() for place in spread(files))


def coverage_rows(subject: Subject) -> Iterator[str]:
    """How often the sets hold the right label on test, by the threshold alone and as it is answered."""
    test = subject.data.split.test
    calibrated = probabilities(
        subject.logits(subject.data.images.encoded[index] for index in test),
        OUTPUTS,
        subject.calibration.temperature,
    )
    of_label = calibrated[np.arange(len(test)), subject.data.images.labels[test]]
    place = (calibrated > of_label[:, np.newaxis]).sum(axis=1)
    for coverage, threshold in subject.calibration.conformal_thresholds.items():
        sizes = set_sizes(calibrated, threshold)
        yield (
            f"| {subject.name} | {coverage} | {threshold:.4f} | {(of_label >= threshold).mean():.2%} "
            f"| {(place < sizes).mean():.2%} | {sizes.mean():.3f} |"
        )


def abstention_rows(
    subject: Subject, others: Sequence[Subject], folders: dict[str, Path]
) -> Iterator[str]:
    """How often the subject abstains on its own test images and on what it does not know, and how well energy tells them apart."""
    encoded, test, threshold = (
        subject.data.images.encoded,
        subject.data.split.test,
        subject.calibration.energy_threshold,
    )
    own = energy(subject.logits(encoded[index] for index in test))
    yield f"| {subject.name} | own test images | {len(own):,} | {(own > threshold).mean():.2%} | |"
    for name, logits in unknown_to(subject, others, folders):
        unknown = energy(logits)
        separated = roc_auc_score(
            np.repeat([0, 1], [len(own), len(unknown)]), np.concatenate([own, unknown])
        )
        yield f"| {subject.name} | {name} | {len(unknown):,} | {(unknown > threshold).mean():.1%} | {separated:.3f} |"


def named_folder(text: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not name or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(
            f"give NAME=FOLDER with a folder that exists; got {text!r}"
        )
    return name, Path(folder)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument(
        "--unknown",
        action="append",
        default=[],
        type=named_folder,
        metavar="NAME=FOLDER",
        help="may be repeated",
    )
    parser.add_argument("--out", type=Path, help="also add the tables to this file")
    options = parser.parse_args()
    subjects = [open_subject(path) for path in options.runs]
    lines = [
        f"{describe_machine(PACKAGES)}. {'; '.join(f'{each.name}: {each.architecture}' for each in subjects)}.",
        "",
    ]
    lines += [
        "| model | coverage asked for | threshold | by the threshold alone | as answered | labels |",
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
