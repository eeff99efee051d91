"""Hooks of schemathesis: values that the document cannot describe, and an extra check.

A JSON schema cannot say that a string is an image in base64, or that two fields depend on each
other. `before_call` makes valid requests valid in that respect too; invalid ones stay as they are.
"""

import base64
import io
import json
import zipfile
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _encode(size: tuple[int, int], colour: str, image_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, image_format)
    return file.getvalue()


IMAGES = [
    _encode(size, colour, image_format)
    for image_format, colour, size in (
        ("PNG", "red", (1, 1)),
        ("JPEG", "blue", (40, 30)),
        ("GIF", "white", (3, 50)),
        ("WEBP", "black", (32, 32)),
    )
]
RANKED = ("probabilities", "logits")


def to_base64(value: object) -> str:
    """One of the images, always the same for the same generated value."""
    return base64.b64encode(IMAGES[len(repr(value)) % len(IMAGES)]).decode()


def make_zip(image: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("image", image)
    return file.getvalue()


schemathesis.openapi.media_type("application/zip", st.sampled_from(IMAGES).map(make_zip))
schemathesis.openapi.media_type("application/octet-stream", st.sampled_from(IMAGES))
schemathesis.openapi.media_type("image/*", st.sampled_from(IMAGES))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    del context, kwargs
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    query = case.query or {}
    if "coverage" in query or {"version", "alias"} <= query.keys():
        case.query = fit_query(query)
    if case.media_type == "application/octet-stream":
        case.headers["Inference-Header-Content-Length"] = "0"
    elif case.media_type == "application/json" and isinstance(case.body, dict):
        fit_json(case)


def fit_query(query: dict[str, Any]) -> dict[str, Any]:
    """The same query with a coverage of the model, and without `alias` if it has `version`."""
    fitted = {name: to_number(value) for name, value in query.items()}
    if "coverage" in fitted:
        fitted["coverage"] = 0.9
    if "version" in fitted:
        fitted.pop("alias", None)
    return fitted


def to_number(value: Any) -> Any:
    """Convert text to a number: a changed query is compared with the schema again."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def fit_json(case: Any) -> None:
    if case.path.endswith("/infer"):
        case.headers.pop("Inference-Header-Content-Length", None)
        case.body = fit_tensors(case.body)
    elif "instances" in case.body:
        instances = [
            {"b64": to_base64(each)}
            if "b64" in each
            else {name: {"b64": to_base64(value)} for name, value in each.items()}
            for each in case.body["instances"]
        ]
        case.body = {**case.body, "instances": instances}
    elif "images" in case.body:
        images = [fit_image(each) for each in case.body["images"]]
        if all("url" in each for each in images):  # no host is allowed, and one image must succeed
            images[0] = {"b64": to_base64(images[0])}
        case.body = {**case.body, "images": images}


def fit_image(image: Any) -> Any:
    if isinstance(image, str):
        return to_base64(image)
    return image if "url" in image else {"b64": to_base64(image)}


def fit_tensors(body: dict[str, Any]) -> dict[str, Any]:
    """Replace the content, so that its size fits the shape."""
    (given,) = body["inputs"]
    tensor: dict[str, Any]
    if given["datatype"] == "BYTES":
        tensor = {"shape": [2], "data": [to_base64(given), to_base64(body)]}
    else:
        tensor = {"shape": [1, 32, 32, 3], "data": [7] * (32 * 32 * 3)}
    outputs = {each["name"]: each for each in body.get("outputs") or ()}
    for name, output in outputs.items():
        if name not in RANKED:
            output.get("parameters", {}).pop("classification", None)
    parameters = {
        name: value
        for name, value in given.get("parameters", {}).items()
        if name != "binary_data_size"
    }
    return {
        **body,
        "inputs": [{**given, **tensor, "parameters": parameters}],
        **({"outputs": list(outputs.values())} if outputs else {}),
    }


@schemathesis.check
def documented_error_code(context: Any, response: Any, case: Any) -> None:
    """The code of a problem is one that the document lists for its operation and status."""
    del context
    if response.headers.get("content-type") != ["application/problem+json"]:
        return
    documented = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    content = documented.get("content", {}).get("application/problem+json")
    if content is None:  # other checks cover statuses and media types
        return
    code = response.json()["code"]
    assert code in content["examples"], code
