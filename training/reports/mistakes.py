"""What a network got wrong: confusion matrix, figures of each class, worst mistakes, likely wrong labels, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.image_set import Indices

Probabilities = NDArray[np.float32]
"""float32 `[images, classes]`, each row summing to 1."""

CALIBRATION_BINS: Final = 15
_SMALLEST: Final = 1e-12


@dataclass(frozen=True)
class SplitPredictions:
    """What the network said of the images at these positions of an ImageSet, beside their labels."""

    split: str
    indices: Indices
    labels: Indices
    probabilities: Probabilities

    @property
    def predicted(self) -> Indices:
        """The class with the highest probability, int64 `[n]`."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    def answer(self, row: int) -> "ClassifiedImage":
        """What was said of one image."""
        label, predicted = int(self.labels[row]), int(self.probabilities[row].argmax())
        of_label, of_predicted = (
            float(self.probabilities[row, position]) for position in (label, predicted)
        )
        return ClassifiedImage(
            int(self.indices[row]), self.split, label, predicted, of_label, of_predicted
        )


@dataclass(frozen=True)
class ClassifiedImage:
    """One image's label and the network's top-1, with the probability of each."""

    index: int
    split: str
    label: int
    predicted: int
    label_probability: float
    probability: float

    @property
    def margin(self) -> float:
        """How much surer the network is of its own answer than of the label."""
        return self.probability - self.label_probability

    @property
    def loss(self) -> float:
        """Cross-entropy, nats."""
        return float(-np.log(max(self.label_probability, _SMALLEST)))


@dataclass(frozen=True)
class ClassFigures:
    """One class on the test split: its images, how many of them were found, how many of those taken for it are it.

    A share of nothing is None.
    """

    label: int
    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose top-1 probability lies in [low, high), in the last bin also 1.

    How many they are, the mean of that probability, and the share of them that is right.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def softmax(logits: NDArray[np.float32]) -> Probabilities:
    """Probabilities from logits, row by row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def confusion_matrix(answers: SplitPredictions) -> Indices:
    """How many images of each class (row) were taken for each (column), int64 `[classes, classes]`."""
    classes = answers.probabilities.shape[1]
    return np.bincount(
        answers.labels * classes + answers.predicted, minlength=classes * classes
    ).reshape(classes, classes)


def figures_by_class(matrix: Indices, names: Sequence[str]) -> list[ClassFigures]:
    """Recall and precision of each class, in the order of the classes."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    of_label, of_answer = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    right = matrix.diagonal().tolist()
    return [
        ClassFigures(
            label,
            name,
            of_label[label],
            share(right[label], of_label[label]),
            share(right[label], of_answer[label]),
        )
        for label, name in enumerate(names)
    ]


def rows_by_cell(answers: SplitPredictions) -> dict[tuple[int, int], Indices]:
    """Rows of the answers for each (label, predicted) that occurs: mistakes the surest first, right answers the least sure."""
    cells = answers.labels * answers.probabilities.shape[1] + answers.predicted
    confidence = answers.probabilities.max(axis=1)
    wrong = answers.predicted != answers.labels
    order = np.lexsort((np.where(wrong, -confidence, confidence), cells))
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    groups = np.split(order, starts[1:])
    return {
        (int(answers.labels[rows[0]]), int(answers.predicted[rows[0]])): rows
        for rows in groups
        if len(rows)
    }


def worst_mistakes(answers: SplitPredictions, limit: int) -> list[ClassifiedImage]:
    """The mistakes with the highest loss, the worst first."""
    own = answers.probabilities[np.arange(len(answers.labels)), answers.labels]
    wrong = np.flatnonzero(answers.predicted != answers.labels)
    return [
        answers.answer(row) for row in wrong[np.argsort(own[wrong], kind="stable")][:limit].tolist()
    ]


def likely_wrong_labels(parts: Sequence[SplitPredictions]) -> list[ClassifiedImage]:
    """Images whose label the network doubts, the largest margin first.

    It doubts a label where it is as sure of another class as it is on average of the images that bear that class: the
    rule of confident learning (Northcutt et al. 2021), which adapts to networks that are never sure.
    """
    return sorted(
        (part.answer(row) for part in parts for row in _doubted(part).tolist()),
        key=lambda answer: (-answer.margin, answer.index),
    )


def _doubted(answers: SplitPredictions) -> Indices:
    classes = answers.probabilities.shape[1]
    own = answers.probabilities[np.arange(len(answers.labels)), answers.labels].astype(np.float64)
    images = np.bincount(answers.labels, minlength=classes)
    usual = np.bincount(answers.labels, own, classes) / np.maximum(images, 1)
    usual[images == 0] = np.inf  # nothing is known of a class that has no image here
    predicted = answers.predicted
    return np.flatnonzero(
        (predicted != answers.labels) & (answers.probabilities.max(axis=1) >= usual[predicted])
    )


def reliability(answers: SplitPredictions, bins: int = CALIBRATION_BINS) -> list[ReliabilityBin]:
    """Confidence against accuracy in bins of equal width, the empty ones left out; the bins of `calibration_error`."""
    confidence = answers.probabilities.max(axis=1)
    right = answers.predicted == answers.labels
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        ReliabilityBin(
            position / bins,
            (position + 1) / bins,
            int(inside.sum()),
            float(confidence[inside].mean(dtype=np.float64)),
            float(right[inside].mean()),
        )
        for position in range(bins)
        if (inside := bin_of == position).any()
    ]
