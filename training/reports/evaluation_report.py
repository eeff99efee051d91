"""The report of a published model's evaluation: a page like the report of a run, without curves."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from model_store.manifest import Calibration, Outputs, SealedDensity
from model_store.preprocessing import Pixels
from model_store.provenance import Metrics
from model_store.session import Logits, probabilities
from training.data.image_set import ImageSet, Indices
from training.reports.mistakes import SplitPredictions, likely_wrong_labels
from training.reports.pages import render_page
from training.reports.predictions import CheckedLabels, describe_predictions, listed_images
from training.reports.thumbnails import make_thumbnails
from training.steps.calibration_fit import measure_calibration

NO_CURVES_OF_IMPORT: Final = "The network was trained elsewhere, so there are no training curves."


@dataclass(frozen=True)
class EvaluatedImages:
    """Labelled images with the scores that a model gives them.

    Attributes:
        images: The data that they are from.
        chosen: Their positions in `images`, int64 `[n]`.
        scores: float32 `[n, classes]`, logits or probabilities as `outputs` says.
        outputs: The model's outputs.
        read: Yields the pixels of images at positions, in chunks.
    """

    images: ImageSet
    chosen: Indices
    scores: Logits
    outputs: Outputs
    read: Callable[[Indices], Iterable[Pixels]]

    @property
    def labels(self) -> Indices:
        return self.images.labels[self.chosen]


def render_evaluation_report(
    model: str,
    evaluated: EvaluatedImages,
    metrics: Metrics,
    *,
    origin: str,
    no_curves: str,
    data_facts: Mapping[str, str],
    calibration: Calibration | None = None,
    density: SealedDensity | None = None,
) -> bytes:
    """Render the page. Equal arguments give equal bytes.

    Args:
        model: The title.
        evaluated: The images with their scores.
        metrics: The metrics of these scores.
        origin: A sentence that says what the model is.
        no_curves: A sentence that says why there are no training curves.
        data_facts: What is known about the images.
        calibration: The version's calibration, which is measured on these images.
        density: The density of the version; None if it abstains by the energy alone.

    Raises:
        DataError: An image can no longer be read.
    """
    names, labels, outputs = evaluated.images.class_names, evaluated.labels, evaluated.outputs
    test = SplitPredictions(
        "test", evaluated.chosen, labels, probabilities(evaluated.scores, outputs)
    )
    classified = describe_predictions(test, likely_wrong_labels([test]), names)
    listed = [image.index for image in listed_images(classified)]
    return render_page(
        "evaluation.html.j2",
        model=model,
        origin=origin,
        no_curves=no_curves,
        images=evaluated.images,
        figures=metrics,
        **classified,
        checked_labels=[CheckedLabels("test", len(labels), len(labels))],
        images_of_cells=False,
        thumbnails=make_thumbnails(evaluated.read, listed),
        calibration=calibration,
        calibrated={"test": measure_calibration(calibration, evaluated.scores, labels)}
        if calibration
        else {},
        calibration_notices=(),
        density=density,
        data_facts=data_facts,
        changed=(),
    )
