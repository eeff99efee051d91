"""The accuracy of a version on labelled images, and the comparison of two versions."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

from model_store.proportions import mcnemar, wilson_interval
from service.commands.classifiers import PredictedImage

TOP_K: Final = 5
CALIBRATION_BINS: Final = 15
"""As in training. Source: Guo et al. 2017, "On Calibration of Modern Neural Networks"."""


def evaluate(images: Sequence[PredictedImage], labels: Mapping[str, str]) -> dict[str, Any]:
    """Measure a version. Images without a result count as failed, not as wrong.

    Args:
        images: The outcome of each image, with at least `TOP_K` predictions.
        labels: The correct label by path.

    Returns:
        The figures as `resident predict --labels --format json` prints them.
    """
    classified = [image for image in images if not image.error]
    figures: dict[str, Any] = {
        "versions": sorted({image.version for image in classified}),
        "images": len(images),
        "failed": [{"path": image.path, "error": image.error} for image in images if image.error],
    }
    if not classified:
        return figures
    correct = [is_correct(image, labels) for image in classified]
    figures |= {
        "top1": sum(correct) / len(classified),
        "top1_interval": wilson_interval(sum(correct), len(classified)),
        "top5": sum(_is_among(image, labels, TOP_K) for image in classified) / len(classified),
        "mean_score": sum(map(_score, classified)) / len(classified),
        "calibration_error": _calibration_error([*map(_score, classified)], correct),
    }
    answered = [right for image, right in zip(classified, correct, strict=True)
                if not image.result.get("abstained")]  # fmt: skip
    if "abstained" in classified[0].result:
        figures["abstained"] = 1 - len(answered) / len(classified)
        figures["top1_of_answered"] = sum(answered) / len(answered) if answered else None
    pairs = Counter((labels[image.path], predicted_label(image)) for image in classified)
    return figures | {"classes": _class_figures(pairs), "confusion": _confusion(pairs)}


def compare(
    first: Sequence[PredictedImage], second: Sequence[PredictedImage], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Compare two versions on the images that both classified, in the same order.

    `p_value` is that of McNemar's test, exact and two-sided: how likely a difference of this size
    is if both versions are equally good.
    """
    both = [
        (before, after)
        for before, after in zip(first, second, strict=True)
        if not (before.error or after.error)
    ]
    rights = Counter(
        (is_correct(before, labels), is_correct(after, labels)) for before, after in both
    )
    only_first, only_second = rights[True, False], rights[False, True]
    likelier = max(only_first, only_second)
    return {
        "images": len(both),
        "only_first_correct": only_first,
        "only_second_correct": only_second,
        "changed_labels": sum(
            predicted_label(before) != predicted_label(after) for before, after in both
        ),
        "p_value": min(1.0, 2 * mcnemar(only_first + only_second - likelier, likelier)),
    }


def is_correct(image: PredictedImage, labels: Mapping[str, str]) -> bool:
    """Whether the most probable label is the correct one."""
    return predicted_label(image) == labels[image.path]


def predicted_label(image: PredictedImage) -> str:
    """The most probable label of a classified image."""
    label: str = image.result["predictions"][0]["label"]
    return label


def _score(image: PredictedImage) -> float:
    score: float = image.result["predictions"][0]["score"]
    return score


def _is_among(image: PredictedImage, labels: Mapping[str, str], count: int) -> bool:
    best = image.result["predictions"][:count]
    return labels[image.path] in {prediction["label"] for prediction in best}


def _calibration_error(scores: Sequence[float], correct: Sequence[bool]) -> float:
    """Mean gap between score and accuracy, over bins of equal width."""
    gaps: defaultdict[int, float] = defaultdict(float)
    for score, right in zip(scores, correct, strict=True):
        gaps[min(int(score * CALIBRATION_BINS), CALIBRATION_BINS - 1)] += score - right
    return sum(map(abs, gaps.values())) / len(scores)


def _class_figures(pairs: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    images, predicted = Counter[str](), Counter[str]()
    for (label, guess), count in pairs.items():
        images[label] += count
        predicted[guess] += count
    return [
        {
            "label": label,
            "images": images[label],
            "recall": pairs.get((label, label), 0) / images[label],
            "precision": pairs.get((label, label), 0) / predicted[label]
            if predicted[label]
            else None,
        }
        for label in sorted(images)
    ]


def _confusion(pairs: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """Each pair of label and other predicted label that occurs, the most frequent first."""
    mistakes = [(count, pair) for pair, count in pairs.items() if pair[0] != pair[1]]
    return [
        {"label": label, "predicted": guess, "images": count}
        for count, (label, guess) in sorted(mistakes, key=lambda entry: (-entry[0], entry[1]))
    ]
