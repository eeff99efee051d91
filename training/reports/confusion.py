"""The cells of a confusion matrix, with the images to show for each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from training.data.image_set import Indices
from training.reports.mistakes import ClassifiedImage, SplitPredictions, rows_by_cell

CELL_THUMBNAILS: Final = 12
"""Largest number of thumbnails of one cell of the confusion matrix."""
MATRIX_THUMBNAILS: Final = 1500
"""Largest number of thumbnails of the whole confusion matrix."""
MATRIX_CLASSES: Final = 100
"""From this number of classes, the page lists the most confused pairs instead of the matrix."""
LISTED_PAIRS: Final = 40


@dataclass(frozen=True)
class ConfusionCell:
    """Test images of one label and one predicted class.

    Attributes:
        share: Share of the label's images.
        shade: Darkness of the cell, from 0 to 1.
        shown: Images with a thumbnail.
    """

    label: int
    predicted: int
    images: int
    share: float
    shade: float
    shown: tuple[ClassifiedImage, ...]

    @property
    def is_correct(self) -> bool:
        return self.label == self.predicted


def confusion_cells(
    test: SplitPredictions, matrix: Indices, *, all_cells: bool
) -> list[ConfusionCell]:
    """Cells with images, row by row. Without `all_cells`: only the largest off the diagonal."""
    rows = rows_by_cell(test)
    if not all_cells:
        wrong = [cell for cell in rows if cell[0] != cell[1]]
        largest = sorted(wrong, key=lambda cell: -len(rows[cell]))[:LISTED_PAIRS]
        rows = {cell: rows[cell] for cell in largest}
    limit = _thumbnails_per_cell([len(images) for images in rows.values()])
    label_counts = matrix.sum(axis=1)
    shares = {cell: float(len(images) / label_counts[cell[0]]) for cell, images in rows.items()}
    wrong_shares = (share for (label, predicted), share in shares.items() if label != predicted)
    largest_wrong = max(wrong_shares, default=1.0)
    cells = []
    for (label, predicted), images in rows.items():
        share = shares[label, predicted]
        shade = share if label == predicted else float(np.sqrt(share / largest_wrong))
        shown = tuple(test.image(row) for row in images[:limit].tolist())
        cells.append(ConfusionCell(label, predicted, len(images), share, shade, shown))
    return cells


def _thumbnails_per_cell(sizes: Sequence[int]) -> int:
    """The largest number of thumbnails per cell, at least 1, that keeps MATRIX_THUMBNAILS."""
    for limit in range(CELL_THUMBNAILS, 1, -1):
        if sum(min(size, limit) for size in sizes) <= MATRIX_THUMBNAILS:
            return limit
    return 1


def matrix_rows(cells: Iterable[ConfusionCell], classes: int) -> list[list[ConfusionCell | None]]:
    by_position = {(cell.label, cell.predicted): cell for cell in cells}
    return [
        [by_position.get((label, predicted)) for predicted in range(classes)]
        for label in range(classes)
    ]
