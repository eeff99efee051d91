"""Mistakes: confusion matrix, figures of classes, order of cells and mistakes, likely wrong labels, calibration; by hand."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from training.reports.mistakes import (
    CALIBRATION_BINS,
    ReliabilityBin,
    SplitPredictions,
    confusion_matrix,
    figures_by_class,
    likely_wrong_labels,
    reliability,
    rows_by_cell,
    softmax,
    worst_mistakes,
)
from training.steps.evaluate import calibration_error


def answers_of(
    labels: Sequence[int],
    probabilities: Sequence[Sequence[float]],
    first: int = 0,
    split: str = "test",
) -> SplitPredictions:
    """SplitPredictions whose first image lies at `first` in the data."""
    indices = np.arange(first, first + len(labels), dtype=np.int64)
    return SplitPredictions(
        split, indices, np.array(labels, np.int64), np.array(probabilities, np.float32)
    )


def two_sided(labels: Sequence[int], of_second: Sequence[float]) -> SplitPredictions:
    """SplitPredictions of two classes, by the probability of the second."""
    return answers_of(labels, [(1 - probability, probability) for probability in of_second])


def drawn(images: int = 400, classes: int = 6, seed: int = 0) -> SplitPredictions:
    """SplitPredictions of every quality, by chance."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (images, classes)).astype(np.float32)
    return answers_of(
        generator.integers(0, classes, images).tolist(), softmax(logits).tolist(), first=1000
    )


def test_rows_of_the_matrix_are_labels_and_columns_are_answers() -> None:
    """Two of the first class are right and one is taken for the third; of the second, one is taken for the first."""
    answers = answers_of(
        [0, 0, 0, 1], [(0.8, 0.1, 0.1), (0.4, 0.3, 0.3), (0.1, 0.2, 0.7), (0.6, 0.3, 0.1)]
    )
    assert confusion_matrix(answers).tolist() == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_the_matrix_counts_every_image_once() -> None:
    """It agrees with a count one by one, on many images."""
    answers = drawn()
    counted = np.zeros((6, 6), int)
    for label, predicted in zip(answers.labels, answers.probabilities.argmax(axis=1), strict=True):
        counted[label, predicted] += 1
    assert (confusion_matrix(answers) == counted).all()


def test_recall_goes_by_the_row_and_precision_by_the_column() -> None:
    """Of four cats three are found; of five taken for cats three are cats."""
    matrix = np.array([[3, 1, 0, 0], [2, 6, 0, 0], [0, 0, 0, 0], [0, 2, 0, 0]])
    cat, dog, owl, elk = figures_by_class(matrix, ("cat", "dog", "owl", "elk"))
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


def test_a_class_that_is_only_taken_for_has_a_precision_and_no_recall() -> None:
    """A share of nothing is None, and a share of something that is nothing is 0."""
    never, _ = figures_by_class(np.array([[0, 0], [1, 1]]), ("never", "always"))
    assert (never.images, never.recall, never.precision) == (0, None, 0.0)


def test_mistakes_come_surest_first_and_right_answers_least_sure_first() -> None:
    """What is most worth a look stands at the front of each cell."""
    answers = two_sided([0, 0, 0, 0, 1, 1, 1], [0.6, 0.1, 0.9, 0.4, 0.7, 0.55, 0.95])
    rows = {place: found.tolist() for place, found in rows_by_cell(answers).items()}
    assert rows == {(0, 0): [3, 1], (0, 1): [2, 0], (1, 1): [5, 4, 6]}


def test_cells_partition_the_images_and_agree_with_the_matrix() -> None:
    """Each image lies in one cell, that of its label and its answer; a cell without images is not there."""
    answers = drawn()
    rows, matrix = rows_by_cell(answers), confusion_matrix(answers)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(400))
    assert {place: len(found) for place, found in rows.items()} == {
        (label, predicted): int(matrix[label, predicted])
        for label, predicted in np.argwhere(matrix).tolist()
    }
    for (label, predicted), found in rows.items():
        assert (answers.labels[found] == label).all()
        assert (answers.predicted[found] == predicted).all()


def test_cells_of_perfect_answers_lie_on_the_diagonal() -> None:
    """There is no mistake, and no class without images has a cell."""
    answers = answers_of([2, 0, 2], [(0.1, 0.2, 0.7), (0.9, 0.1, 0.0), (0.2, 0.3, 0.5)])
    assert {place: found.tolist() for place, found in rows_by_cell(answers).items()} == {
        (0, 0): [1],
        (2, 2): [2, 0],
    }
    assert worst_mistakes(answers, 10) == []
    assert likely_wrong_labels([answers]) == []


def test_the_worst_mistake_is_the_one_whose_label_is_least_likely() -> None:
    """Not the one that is surest: the loss sees the label alone. Right answers with a high loss do not count."""
    probabilities = [(0.30, 0.60, 0.10), (0.05, 0.50, 0.45), (0.40, 0.35, 0.25), (0.10, 0.80, 0.10)]
    answers = answers_of([0, 0, 0, 0], probabilities, first=70)
    worst = worst_mistakes(answers, 10)
    assert [answer.index for answer in worst] == [71, 73, 70]
    assert [answer.index for answer in worst_mistakes(answers, 2)] == [71, 73]
    assert worst_mistakes(answers, 0) == []
    first = worst[0]
    assert (first.split, first.label, first.predicted) == ("test", 0, 1)
    assert (first.label_probability, first.probability) == (pytest.approx(0.05), pytest.approx(0.5))
    assert first.loss == pytest.approx(-np.log(0.05))
    assert first.margin == pytest.approx(0.45)


def test_a_label_of_no_probability_has_a_finite_loss() -> None:
    """Float32 rounds a sure mistake to 0, and a page can not show infinity."""
    (answer,) = worst_mistakes(two_sided([0], [1.0]), 1)
    assert answer.label_probability == 0
    assert np.isfinite(answer.loss)
    assert answer.loss > 20


def test_a_label_is_doubted_where_another_class_is_as_likely_as_its_own_images_are() -> None:
    """By hand: the second class's images get 0.7 on average, so a stranger is doubted from 0.7 on, and 0.69 does not do."""
    labels = [0, 0, 0, 0, 1, 1]
    answers = two_sided(labels, [0.1, 0.69, 0.71, 0.95, 0.6, 0.8])
    assert [
        (answer.index, answer.label, answer.predicted) for answer in likely_wrong_labels([answers])
    ] == [(3, 0, 1), (2, 0, 1)]


def test_the_bar_is_the_classs_own() -> None:
    """A class whose images are never sure has a low one: 0.5 is much of the third class and little of the second."""
    probabilities = [
        (0.9, 0.05, 0.05),
        (0.0, 0.9, 0.1),
        (0.3, 0.3, 0.4),
        (0.4, 0.5, 0.1),
        (0.4, 0.1, 0.5),
    ]
    answers = answers_of([0, 1, 2, 0, 0], probabilities)
    assert [answer.index for answer in likely_wrong_labels([answers])] == [4]


def test_nothing_is_doubted_in_favour_of_a_class_that_has_no_image() -> None:
    """What its images usually get is not known, however sure the network is."""
    assert likely_wrong_labels([answers_of([0, 1], [(0.0, 0.01, 0.99), (0.0, 0.9, 0.1)])]) == []


def test_a_right_answer_is_never_doubted() -> None:
    """Though it lies above the bar, and though all others of its class lie far below."""
    assert likely_wrong_labels([two_sided([1, 1, 1], [0.99, 0.6, 0.6])]) == []


def test_each_split_has_its_own_bars_and_all_are_sorted_together() -> None:
    """Training images are learned by heart, so what is usual there is not usual on the test split; equals go by their place."""
    test = two_sided([0, 0, 1], [0.2, 0.65, 0.6])
    train = answers_of(
        [0, 0, 0, 1], [(0.1, 0.9), (0.35, 0.65), (0.1, 0.9), (0.2, 0.8)], first=10, split="train"
    )
    doubted = likely_wrong_labels([test, train])
    assert [(answer.split, answer.index) for answer in doubted] == [
        ("train", 10),
        ("train", 12),
        ("test", 1),
    ]
    assert doubted == likely_wrong_labels([train, test])
    assert likely_wrong_labels([]) == []


def test_bins_hold_the_mean_confidence_and_the_share_that_is_right() -> None:
    """Of four bins two are empty and left out: top-1 of two classes is never below a half."""
    found = reliability(two_sided([1, 0, 1, 1], [0.6, 0.7, 0.9, 0.8]), bins=4)
    assert found == [
        ReliabilityBin(0.5, 0.75, 2, pytest.approx(0.65), 0.5),
        ReliabilityBin(0.75, 1.0, 2, pytest.approx(0.85), 1.0),
    ]


def test_a_confidence_of_one_lies_in_the_last_bin() -> None:
    """Not in one behind it."""
    (found,) = reliability(two_sided([1, 0], [1.0, 1.0]))
    assert (found.low, found.high) == ((CALIBRATION_BINS - 1) / CALIBRATION_BINS, 1.0)
    assert (found.images, found.confidence, found.accuracy) == (2, 1.0, 0.5)


@pytest.mark.parametrize(
    "answers", [drawn(), drawn(images=3), two_sided([1, 0, 1], [1.0, 1.0, 0.5])]
)
def test_the_bins_give_the_calibration_error_of_the_evaluation(answers: SplitPredictions) -> None:
    """The mean gap over the bins is what `evaluate` writes; no image is lost."""
    bins = reliability(answers)
    gap = sum(found.images * abs(found.confidence - found.accuracy) for found in bins) / len(
        answers.labels
    )
    assert sum(found.images for found in bins) == len(answers.labels)
    assert all(found.images and found.low <= found.confidence <= found.high for found in bins)
    expected = calibration_error(
        torch.from_numpy(answers.probabilities), torch.from_numpy(answers.labels)
    )
    assert gap == pytest.approx(expected, abs=1e-6)


def test_softmax_is_torchs() -> None:
    """Float32 rows that sum to 1, whatever is added to all logits of a row."""
    logits = np.random.default_rng(1).normal(0, 5, (50, 7)).astype(np.float32)
    found = softmax(logits)
    assert found.dtype == np.float32
    assert np.allclose(found, torch.from_numpy(logits).softmax(1).numpy(), atol=1e-6)
    assert np.allclose(softmax(logits + np.float32(64)), found, atol=1e-5)


def test_large_logits_do_not_overflow() -> None:
    """`exp(1e4)` is infinite, and a warning would be an error here."""
    found = softmax(
        np.array([[1e4, 0.0, -1e4], [-3e38, -3e38, -3e38], [500.0, 500.0, 0.0]], np.float32)
    )
    assert np.allclose(found, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
