"""Where the model looked: the activation maps of an answer, aligned with its image."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.activation_maps import activation_maps, render_overlays
from model_store.geometry import visible_region
from service.engine.loaded_version import LoadedVersion
from service.engine.queued_image import ImageResult
from service.prediction.request import ImageOutcome, PredictRequest


def explain_all(
    loaded: LoadedVersion, request: PredictRequest, outcomes: Sequence[ImageOutcome]
) -> list[dict[str, Any] | None]:
    """The explanation of each answer of a request that asks for it; None for an error."""
    explanations: list[dict[str, Any] | None] = []
    for outcome in outcomes:
        if isinstance(outcome.result, ImageResult) and request.explain and outcome.size:
            row = outcome.result.row
            classes = row.indices[: request.top_k].tolist()
            explanations.append(
                explain(loaded, request.explain, outcome.size, row.features, classes)
            )
        else:
            explanations.append(None)
    return explanations


def explain(
    loaded: LoadedVersion,
    kind: str,
    size: tuple[int, int],
    features: NDArray[np.float32],
    classes: Sequence[int],
) -> dict[str, Any]:
    """The explanation of one answer, as `Explanation` in `service.http.schemas` declares it."""
    region = visible_region(*size, loaded.preprocessing)
    maps = activation_maps(features, loaded.classifier, classes)
    names = loaded.version.manifest.class_names
    if kind == "map":
        contents: list[dict[str, Any]] = [
            {"map": values.astype(float).tolist(), "bias": float(loaded.classifier.bias[index])}
            for index, values in zip(classes, maps, strict=True)
        ]
    else:
        overlays = render_overlays(maps, size, region)
        contents = [{"overlay": base64.b64encode(overlay).decode()} for overlay in overlays]
    labels = [
        {"label": names[index], "index": index, **content}
        for index, content in zip(classes, contents, strict=True)
    ]
    return {
        "image": {"width": size[0], "height": size[1]},
        "region": region._asdict(),
        "labels": labels,
    }
