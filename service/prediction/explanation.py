"""Where the model looked: the activation maps of an answer, aligned with its image."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.activation_maps import activation_maps, render_overlay
from model_store.geometry import seen_region
from model_store.preprocessing import upright_size
from service.engine.batcher import ImageResult
from service.engine.loaded_version import LoadedVersion
from service.prediction.request import ImageOutcome, PredictRequest


def explain_all(
    loaded: LoadedVersion, request: PredictRequest, outcomes: Sequence[ImageOutcome]
) -> list[dict[str, Any] | None]:
    """The explanation of each answer of a request that asks for it; None for an error."""
    explanations: list[dict[str, Any] | None] = []
    for image, outcome in zip(request.images, outcomes, strict=True):
        if isinstance(outcome.result, ImageResult) and request.explain:
            row = outcome.result.row
            classes = row.indices[: request.top_k].tolist()
            explanations.append(_explain(loaded, request.explain, image, row.features, classes))
        else:
            explanations.append(None)
    return explanations


def _explain(
    loaded: LoadedVersion,
    kind: str,
    image: bytes,
    features: NDArray[np.float32],
    classes: Sequence[int],
) -> dict[str, Any]:
    """The explanation of one answer, as `Explanation` in `service.http.schemas` declares it."""
    size = upright_size(image, loaded.preprocessing)
    region = seen_region(*size, loaded.preprocessing)
    maps = activation_maps(features, loaded.classifier, classes)
    names = loaded.version.manifest.class_names
    labels: list[dict[str, Any]] = []
    for index, activation_map in zip(classes, maps, strict=True):
        label: dict[str, Any] = {"label": names[index], "index": index}
        if kind == "map":
            label["map"] = activation_map.astype(float).tolist()
            label["bias"] = float(loaded.classifier.bias[index])
        else:
            picture = render_overlay(activation_map, size, region)
            label["overlay"] = base64.b64encode(picture).decode()
        labels.append(label)
    return {
        "image": {"width": size[0], "height": size[1]},
        "region": region._asdict(),
        "labels": labels,
    }
