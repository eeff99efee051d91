"""The parts of a report that follow from predictions: classes, confusion, mistakes, calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.reports.confusion import MATRIX_CLASSES, confusion_cells, matrix_rows
from training.reports.figures import draw_reliability
from training.reports.mistakes import (
    ClassifiedImage,
    SplitPredictions,
    class_metrics,
    confusion_matrix,
    reliability_bins,
    worst_mistakes,
)

LISTED_MISTAKES: Final = 24
LISTED_LABELS: Final = 36


@dataclass(frozen=True)
class CheckedLabels:
    """Number of images of a split that were checked for wrong labels, and their total number."""

    split: str
    images: int
    total: int


def describe_predictions(
    test: SplitPredictions, wrong_labels: Sequence[ClassifiedImage], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the variables of `report.html.j2` that follow from predictions.

    Args:
        test: Predictions for the test images.
        wrong_labels: Images whose label is probably wrong, the most likely first.
        class_names: Names of the classes.
    """
    matrix, has_matrix = confusion_matrix(test), len(class_names) < MATRIX_CLASSES
    cells = confusion_cells(test, matrix, all_cells=has_matrix)
    bins = reliability_bins(test)
    return {
        "correct": int(matrix.trace()),
        "classes": class_metrics(matrix, class_names),
        "matrix": matrix_rows(cells, len(matrix)) if has_matrix else None,
        "cells": cells,
        "mistakes": int(matrix.sum() - matrix.trace()),
        "worst_mistakes": worst_mistakes(test, LISTED_MISTAKES),
        "wrong_labels": wrong_labels[:LISTED_LABELS],
        "wrong_labels_total": len(wrong_labels),
        "bins": bins,
        "reliability": draw_reliability("calibration", bins),
    }


def listed_images(classified: dict[str, Any]) -> list[ClassifiedImage]:
    """Return the listed mistakes and likely wrong labels of `describe_predictions`."""
    return [*classified["worst_mistakes"], *classified["wrong_labels"]]
