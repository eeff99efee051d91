"""Confusion matrix, metrics by class, worst mistakes, likely wrong labels and reliability."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.image_set import Indices

Probabilities = NDArray[np.float32]
"""float32 `[images, classes]`; each row sums to 1."""

CALIBRATION_BINS: Final = 15
SMALLEST_PROBABILITY: Final = 1e-12


@dataclass(frozen=True)
class SplitPredictions:
    """Predictions for images of one split.

    Attributes:
        indices: Positions of the images in the data, int64 `[images]`.
        labels: int64 `[images]`.
        probabilities: float32 `[images, classes]`.
    """

    split: str
    indices: Indices
    labels: Indices
    probabilities: Probabilities

    @property
    def predicted(self) -> Indices:
        """The most probable class, int64 `[images]`."""
        return np.asarray(self.probabilities.argmax(axis=1), np.int64)

    @property
    def label_probabilities(self) -> Probabilities:
        """Probability of each image's label, float32 `[images]`."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]

    def image(self, row: int) -> "ClassifiedImage":
        label, predicted = int(self.labels[row]), int(self.probabilities[row].argmax())
        probability, label_probability = (
            float(self.probabilities[row, position]) for position in (predicted, label)
        )
        index = int(self.indices[row])
        return ClassifiedImage(index, self.split, label, predicted, label_probability, probability)


@dataclass(frozen=True)
class ClassifiedImage:
    """An image with its label and its predicted class, and the probability of each."""

    index: int
    split: str
    label: int
    predicted: int
    label_probability: float
    probability: float

    @property
    def margin(self) -> float:
        """Probability of the predicted class minus that of the label."""
        return self.probability - self.label_probability

    @property
    def loss(self) -> float:
        """Cross-entropy in nats."""
        return float(-np.log(max(self.label_probability, SMALLEST_PROBABILITY)))


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class. Recall or precision is None if its denominator is 0."""

    label: int
    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose highest probability is in [low, high); the last bin includes 1.

    Attributes:
        confidence: Mean of their highest probabilities.
        accuracy: Share of correct predictions.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def softmax(logits: NDArray[np.float32]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def confusion_matrix(predictions: SplitPredictions) -> Indices:
    """Number of images by label (row) and predicted class (column), int64 `[classes, classes]`."""
    classes = predictions.probabilities.shape[1]
    cells = predictions.labels * classes + predictions.predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_metrics(matrix: Indices, names: Sequence[str]) -> list[ClassMetrics]:

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    labelled, predicted = matrix.sum(axis=1).tolist(), matrix.sum(axis=0).tolist()
    correct = matrix.diagonal().tolist()
    return [
        ClassMetrics(
            label,
            name,
            labelled[label],
            recall=share(correct[label], labelled[label]),
            precision=share(correct[label], predicted[label]),
        )
        for label, name in enumerate(names)
    ]


def rows_by_cell(predictions: SplitPredictions) -> dict[tuple[int, int], Indices]:
    """Rows of the predictions for each (label, predicted class) that occurs.

    Mistakes are sorted by descending probability, correct predictions by ascending probability.
    """
    labels, predicted = predictions.labels, predictions.predicted
    cells = labels * predictions.probabilities.shape[1] + predicted
    confidence = predictions.probabilities.max(axis=1)
    order = np.lexsort((np.where(predicted != labels, -confidence, confidence), cells))
    starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
    groups = np.split(order, starts[1:])
    return {(int(labels[rows[0]]), int(predicted[rows[0]])): rows for rows in groups if len(rows)}


def worst_mistakes(predictions: SplitPredictions, limit: int) -> list[ClassifiedImage]:
    """The misclassified images with the highest loss, highest first."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    order = np.argsort(predictions.label_probabilities[wrong], kind="stable")
    return [predictions.image(row) for row in wrong[order][:limit].tolist()]


def likely_wrong_labels(splits: Sequence[SplitPredictions]) -> list[ClassifiedImage]:
    """Images whose label is probably wrong, with the largest margin first.

    A misclassified image is listed if the probability of its predicted class reaches a threshold.
    The threshold is the mean probability of that class over all images labelled with it, in the
    same split.

    Source: confident learning, Northcutt et al. 2021.
    """
    return sorted(
        (split.image(row) for split in splits for row in _likely_wrong_rows(split).tolist()),
        key=lambda image: (-image.margin, image.index),
    )


def _likely_wrong_rows(predictions: SplitPredictions) -> Indices:
    classes = predictions.probabilities.shape[1]
    images = np.bincount(predictions.labels, minlength=classes)
    sums = np.bincount(
        predictions.labels, predictions.label_probabilities.astype(np.float64), classes
    )
    thresholds = sums / np.maximum(images, 1)
    thresholds[images == 0] = np.inf
    predicted, confidence = predictions.predicted, predictions.probabilities.max(axis=1)
    return np.flatnonzero((predicted != predictions.labels) & (confidence >= thresholds[predicted]))


def reliability_bins(
    predictions: SplitPredictions, bins: int = CALIBRATION_BINS
) -> list[ReliabilityBin]:
    """Confidence and accuracy in bins of equal width, without empty bins.

    `expected_calibration_error` uses the same bins.
    """
    confidence = predictions.probabilities.max(axis=1)
    correct = predictions.predicted == predictions.labels
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    return [
        ReliabilityBin(
            position / bins,
            (position + 1) / bins,
            int(inside.sum()),
            float(confidence[inside].mean(dtype=np.float64)),
            float(correct[inside].mean()),
        )
        for position in range(bins)
        if (inside := bin_of == position).any()
    ]
