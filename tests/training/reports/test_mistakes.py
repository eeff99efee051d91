"""Confusion matrix, class metrics, mistakes, likely wrong labels and reliability, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from training.reports.mistakes import (
    CALIBRATION_BINS,
    ReliabilityBin,
    SplitPredictions,
    class_metrics,
    confusion_matrix,
    likely_wrong_labels,
    reliability_bins,
    rows_by_cell,
    softmax,
    worst_mistakes,
)
from training.steps.evaluate import expected_calibration_error


def predictions_of(
    labels: Sequence[int],
    probabilities: Sequence[Sequence[float]],
    first: int = 0,
    split: str = "test",
) -> SplitPredictions:
    """Predictions for consecutive images, from position `first` on."""
    indices = np.arange(first, first + len(labels), dtype=np.int64)
    return SplitPredictions(
        split, indices, np.array(labels, np.int64), np.array(probabilities, np.float32)
    )


def two_classes(labels: Sequence[int], of_second: Sequence[float]) -> SplitPredictions:
    """Predictions of two classes, by the probability of the second."""
    return predictions_of(labels, [(1 - probability, probability) for probability in of_second])


def random_predictions(images: int = 400, classes: int = 6, seed: int = 0) -> SplitPredictions:
    """Random predictions."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (images, classes)).astype(np.float32)
    return predictions_of(
        generator.integers(0, classes, images).tolist(), softmax(logits).tolist(), first=1000
    )


def test_rows_of_the_matrix_are_labels_and_columns_are_predictions() -> None:
    predictions = predictions_of(
        [0, 0, 0, 1], [(0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1)]
    )
    assert confusion_matrix(predictions).tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_the_matrix_counts_every_image_once() -> None:
    predictions = random_predictions()
    counted = np.zeros((6, 6), int)
    for label, predicted in zip(
        predictions.labels, predictions.probabilities.argmax(axis=1), strict=True
    ):
        counted[label, predicted] += 1
    assert (confusion_matrix(predictions) == counted).all()


def test_recall_is_taken_over_rows_and_precision_over_columns() -> None:
    matrix = np.array([[3, 1, 0, 0], [2, 6, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]])
    cat, dog, owl, elk = class_metrics(matrix, ("cat", "dog", "owl", "elk"))
    assert (cat.name, cat.label, cat.images, cat.recall, cat.precision) == (
        "cat",
        0,
        4,
        3 / 4,
        3 / 5,
    )
    assert (dog.name, dog.label, dog.images, dog.recall, dog.precision) == (
        "dog",
        1,
        8,
        6 / 8,
        6 / 9,
    )
    assert (owl.images, owl.recall, owl.precision) == (0, None, None)
    assert (elk.images, elk.recall, elk.precision) == (2, 0.0, None)


def test_a_class_without_images_has_no_recall() -> None:
    """Its precision is 0 if it was predicted."""
    never, _ = class_metrics(np.array([[0, 0], [1, 1]]), ("never", "always"))
    assert (never.images, never.recall, never.precision) == (0, None, 0.0)


def test_mistakes_are_sorted_by_falling_and_correct_predictions_by_rising_confidence() -> None:
    predictions = two_classes([0, 0, 0, 0, 1, 1, 1], [0.6, 0.1, 0.9, 0.4, 0.7, 0.55, 0.95])
    rows = {place: result.tolist() for place, result in rows_by_cell(predictions).items()}
    assert rows == {(0, 0): [3, 1], (0, 1): [2, 0], (1, 1): [5, 4, 6]}


def test_cells_partition_the_images_and_agree_with_the_matrix() -> None:
    predictions = random_predictions()
    rows, matrix = rows_by_cell(predictions), confusion_matrix(predictions)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(400))
    assert {place: len(result) for place, result in rows.items()} == {
        (label, predicted): int(matrix[label, predicted])
        for label, predicted in np.argwhere(matrix).tolist()
    }
    for (label, predicted), result in rows.items():
        assert (predictions.labels[result] == label).all()
        assert (predictions.predicted[result] == predicted).all()


def test_cells_of_perfect_predictions_are_on_the_diagonal() -> None:
    predictions = predictions_of([2, 0, 2], [(0.1, 0.2, 0.7), (0.9, 0.1, 0.0), (0.2, 0.3, 0.5)])
    assert {place: result.tolist() for place, result in rows_by_cell(predictions).items()} == {
        (0, 0): [1],
        (2, 2): [2, 0],
    }
    assert worst_mistakes(predictions, 10) == []
    assert likely_wrong_labels([predictions]) == []


def test_the_worst_mistake_has_the_least_likely_label() -> None:
    """The probability of the predicted class does not matter. Correct predictions are left out."""
    probabilities = [(0.30, 0.60, 0.10), (0.05, 0.50, 0.45), (0.40, 0.35, 0.25), (0.10, 0.80, 0.10)]
    predictions = predictions_of([0, 0, 0, 0], probabilities, first=70)
    worst = worst_mistakes(predictions, 10)
    assert [image.index for image in worst] == [71, 73, 70]
    assert [image.index for image in worst_mistakes(predictions, 2)] == [71, 73]
    assert worst_mistakes(predictions, 0) == []
    first = worst[0]
    assert (first.split, first.label, first.predicted) == ("test", 0, 1)
    assert (first.label_probability, first.probability) == (pytest.approx(0.05), pytest.approx(0.5))
    assert first.loss == pytest.approx(-np.log(0.05))
    assert first.margin == pytest.approx(0.45)


def test_a_label_of_no_probability_has_a_finite_loss() -> None:
    """float32 rounds the label's probability to 0."""
    (image,) = worst_mistakes(two_classes([0], [1.0]), 1)
    assert image.label_probability == 0
    assert np.isfinite(image.loss)
    assert image.loss > 20


def test_a_label_is_likely_wrong_if_another_class_is_as_likely_as_for_its_own_images() -> None:
    """Images of the second class have 0.7 on average: 0.71 is listed, 0.69 is not."""
    labels = [0, 0, 0, 0, 1, 1]
    predictions = two_classes(labels, [0.1, 0.69, 0.71, 0.95, 0.6, 0.8])
    assert [
        (image.index, image.label, image.predicted) for image in likely_wrong_labels([predictions])
    ] == [(3, 0, 1), (2, 0, 1)]


def test_each_class_has_its_own_threshold() -> None:
    """0.5 is above the threshold of the third class and below that of the second."""
    probabilities = [
        (0.9, 0.05, 0.05),
        (0.0, 0.9, 0.1),
        (0.3, 0.3, 0.4),
        (0.4, 0.5, 0.1),
        (0.4, 0.1, 0.5),
    ]
    predictions = predictions_of([0, 1, 2, 0, 0], probabilities)
    assert [image.index for image in likely_wrong_labels([predictions])] == [4]


def test_a_class_without_images_makes_no_label_likely_wrong() -> None:
    assert likely_wrong_labels([predictions_of([0, 1], [(0.0, 0.01, 0.99), (0.0, 0.9, 0.1)])]) == []


def test_a_correct_prediction_is_never_listed() -> None:
    assert likely_wrong_labels([two_classes([1, 1, 1], [0.99, 0.6, 0.6])]) == []


def test_each_split_has_its_own_thresholds_and_all_are_sorted_together() -> None:
    """Equal margins are sorted by position."""
    test = two_classes([0, 0, 1], [0.2, 0.65, 0.6])
    train = predictions_of(
        [0, 0, 0, 1], [(0.1, 0.9), (0.35, 0.65), (0.1, 0.9), (0.2, 0.8)], first=10, split="train"
    )
    listed = likely_wrong_labels([test, train])
    assert [(image.split, image.index) for image in listed] == [
        ("train", 10),
        ("train", 12),
        ("test", 1),
    ]
    assert listed == likely_wrong_labels([train, test])
    assert likely_wrong_labels([]) == []


def test_bins_state_mean_confidence_and_accuracy() -> None:
    """Empty bins are left out."""
    result = reliability_bins(two_classes([1, 0, 1, 1], [0.6, 0.7, 0.9, 0.8]), bins=4)
    assert result == [
        ReliabilityBin(0.5, 0.75, 2, pytest.approx(0.65), 0.5),
        ReliabilityBin(0.75, 1.0, 2, pytest.approx(0.85), 1.0),
    ]


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    (result,) = reliability_bins(two_classes([1, 0], [1.0, 1.0]))
    assert (result.low, result.high) == ((CALIBRATION_BINS - 1) / CALIBRATION_BINS, 1.0)
    assert (result.images, result.confidence, result.accuracy) == (2, 1.0, 0.5)


@pytest.mark.parametrize(
    "predictions",
    [random_predictions(), random_predictions(images=3), two_classes([1, 0, 1], [1.0, 1.0, 0.5])],
)
def test_the_bins_give_the_calibration_error_of_the_evaluation(
    predictions: SplitPredictions,
) -> None:
    bins = reliability_bins(predictions)
    gap = sum(result.images * abs(result.confidence - result.accuracy) for result in bins) / len(
        predictions.labels
    )
    assert sum(result.images for result in bins) == len(predictions.labels)
    assert all(result.images and result.low <= result.confidence <= result.high for result in bins)
    expected = expected_calibration_error(
        torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.labels)
    )
    assert gap == pytest.approx(expected, abs=1e-6)


def test_softmax_equals_torchs() -> None:
    logits = np.random.default_rng(1).normal(0, 5, (50, 7)).astype(np.float32)
    result = softmax(logits)
    assert result.dtype == np.float32
    assert np.allclose(result, torch.from_numpy(logits).softmax(1).numpy(), atol=1e-6)
    assert np.allclose(softmax(logits + np.float32(64)), result, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    """Warnings are errors in tests."""
    result = softmax(
        np.array([[1e4, 0.0, -1e4], [-3e38, -3e38, -3e38], [500.0, 500.0, 0.0]], np.float32)
    )
    assert np.allclose(result, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
