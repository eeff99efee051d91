"""The outputs of a model, and from the results of its images to output tensors."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.engine.classification import Classification
from service.engine.loaded_version import LoadedVersion
from service.engine.queued_image import ImageResult
from service.errors import FailedImageError
from service.prediction.request import ImageOutcome
from service.protocols.open_inference.tensors import BYTES, FP32, OutputTensor

PROBABILITIES: Final = "probabilities"
LOGITS: Final = "logits"
EMBEDDING: Final = "embedding"
LABELS: Final = "labels"
OUTPUT_NAMES: Final = (PROBABILITIES, LOGITS, EMBEDDING, LABELS)
_ATTRIBUTES: Final = {
    PROBABILITIES: attrgetter("probabilities"),
    LOGITS: attrgetter("raw_scores"),
    EMBEDDING: attrgetter("embedding"),
}
"""By output: how to read it from the result of an image."""
RANKED_OUTPUTS: Final = (PROBABILITIES, LOGITS)
"""Outputs with one score for each class, which the classification extension can rank."""


def output_names(loaded: LoadedVersion) -> list[str]:
    """The outputs of a version, in the order of its metadata."""
    has_logits = loaded.version.manifest.outputs.kind == "logits"
    return [
        PROBABILITIES,
        *([LOGITS] if has_logits else []),
        *([EMBEDDING] if loaded.embedding_dims else []),
        LABELS,
    ]


def output_shape(name: str, loaded: LoadedVersion) -> tuple[str, list[int]]:
    """Datatype and shape of an output for one image."""
    if name == LABELS:
        return BYTES, []
    if name == EMBEDDING:
        return FP32, [loaded.embedding_dims or 0]
    return FP32, [len(loaded.version.manifest.class_names)]


def read_results(outcomes: Sequence[ImageOutcome]) -> list[Classification]:
    """The result of each image. Raises the error of the first image that has none."""
    results: list[Classification] = []
    for number, outcome in enumerate(outcomes, 1):
        if not isinstance(outcome.result, ImageResult):
            raise FailedImageError(number, len(outcomes), outcome.result)
        results.append(outcome.result.row)
    return results


def build_output(
    name: str, classes: int, results: Sequence[Classification], loaded: LoadedVersion
) -> OutputTensor:
    """One output of a response.

    Args:
        name: Name of the output.
        classes: If positive, `value:index:label` of so many classes instead of the scores.
        results: The result of each image.
        loaded: The version.
    """
    class_names = loaded.version.manifest.class_names
    if classes:
        ranked = [_describe_best(scores, classes, class_names) for scores in _scores(name, results)]
        return OutputTensor(name, BYTES, [len(ranked), len(ranked[0])], ranked)
    datatype, shape = output_shape(name, loaded)
    if name == LABELS:
        labels = [[class_names[row.indices[0]]] for row in results]
        return OutputTensor(name, datatype, [len(labels)], labels)
    scores = _scores(name, results)
    return OutputTensor(name, datatype, [len(scores), *shape], scores)


def _scores(name: str, results: Sequence[Classification]) -> list[NDArray[np.float32]]:
    return list(map(_ATTRIBUTES[name], results))


def _describe_best(
    scores: NDArray[np.float32], count: int, class_names: Sequence[str]
) -> list[str]:
    order = np.argsort(-scores, kind="stable")[:count].tolist()
    return [f"{scores[index]:f}:{index}:{class_names[index]}" for index in order]
