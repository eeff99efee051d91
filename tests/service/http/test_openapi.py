"""The OpenAPI document and its page, which use no other host."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from colour_model import MODEL, labels, plain

ELSEWHERE = re.compile(r"""(?:https?:)?//[\w.-]""")
PREDICT_PATHS = [
    "/v1/predict",
    "/v1/models/{model}/predict",
    "/v1/models/{model}/versions/{version}/predict",
]
EMBED_PATHS = [path.replace("predict", "embed") for path in PREDICT_PATHS]

MANAGEMENT_PATHS = [
    "/v1/models/{model}/versions/{version}/load",
    "/v1/models/{model}/versions/{version}/unload",
    "/v1/models/{model}/versions/{version}/hold",
    "/v1/models/{model}/versions/{version}/promote",
    "/v1/models/{model}/rollback",
    "/v1/models/{model}/aliases/{alias}",
]


OPEN_INFERENCE_MODEL_PATHS = [
    f"/v2/models/{{model}}{version}{suffix}"
    for version in ("", "/versions/{version}")
    for suffix in ("", "/ready", "/config", "/stats", "/infer")
]
INSTANCES_PATHS = [
    "/v1/models/{model}:predict",
    "/v1/models/{model}/versions/{version}:predict",
    "/v1/models/{model}/labels/{label}:predict",
]
OPEN_INFERENCE_PATHS = [
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/stats",
    *OPEN_INFERENCE_MODEL_PATHS,
    "/v2/repository/index",
    "/v2/repository/models/{model}/load",
    "/v2/repository/models/{model}/unload",
]


class Links(HTMLParser):
    """The links that a browser would fetch for a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in {"src", "href"}]


@pytest.fixture(scope="module")
def page(client: httpx.Client) -> str:
    return client.get("/docs").text


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    parsed: dict[str, Any] = json.loads(response.content)
    return parsed


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in (
        node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    ):
        yield from walk(child)


def resolve(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    assert reference.startswith("#/")
    for part in reference[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def test_page_names_no_other_host(page: str) -> None:
    """The page works without internet access."""
    assert not ELSEWHERE.findall(page)
    assert "SwaggerUIBundle" in page
    assert "/openapi.json" in page


def test_script_style_and_icon_are_served_locally(client: httpx.Client, page: str) -> None:
    """They have the right media types."""
    links = Links(page).found
    types = {}
    for link in links:
        response = client.get(link)
        assert response.status_code == 200
        types[link.rsplit(".", 1)[-1]] = response.headers["content-type"].split(";")[0]
    assert types == {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def test_style_and_script_load_nothing_from_elsewhere(client: httpx.Client, page: str) -> None:
    """They import nothing and name no source map."""
    for link in Links(page).found:
        text = client.get(link).text
        assert "sourceMappingURL" not in text
        if link.endswith(".css"):
            assert "@import" not in text
            assert not re.findall(r"url\(\s*['\"]?(?:https?:)?//", text)


def test_validator_badge_is_off(page: str) -> None:
    """Swagger UI's badge would send the document to another host."""
    assert re.search(r'"validatorUrl":\s*null', page)


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    """A client generator finds every schema."""
    references = [node["$ref"] for node in walk(document) if isinstance(node.get("$ref"), str)]
    assert references
    dangling = []
    for reference in references:
        try:
            resolve(document, reference)
        except KeyError:
            dangling.append(reference)
    assert dangling == []


@pytest.mark.parametrize("path", PREDICT_PATHS)
def test_predict_routes_are_documented(document: dict[str, Any], path: str) -> None:
    """Each has parameters, a required body of four media types, a response and errors."""
    operation = document["paths"][path]["post"]
    assert operation["summary"]
    body = operation["requestBody"]
    assert body["required"]
    assert set(body["content"]) == {
        *("image/*", "multipart/form-data", "application/json", "application/zip")
    }
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "top_k",
        "coverage",
        "embedding",
        "explain",
        "timeout_ms",
        "priority",
        *(() if "{version}" in path else ("version", "alias")),
        *re.findall(r"{(\w+)}", path),
    }
    answers = operation["responses"]
    assert answers["200"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/PredictResponse"
    )
    assert {"400", "401", "403", "404", "408", "413", "415", "429", "500", "503", "504"} <= set(
        answers
    )


@pytest.mark.parametrize("path", EMBED_PATHS)
def test_embed_routes_are_documented(document: dict[str, Any], path: str) -> None:
    """They take the same bodies, have two media types of a response, and rank nothing."""
    operation = document["paths"][path]["post"]
    predict = document["paths"][path.replace("embed", "predict")]["post"]
    assert operation["requestBody"] == predict["requestBody"]
    names, of_predict = (
        {parameter["name"] for parameter in each["parameters"]} for each in (operation, predict)
    )
    assert of_predict - names == {"top_k", "coverage", "embedding", "explain"}
    assert names < of_predict
    success = operation["responses"].pop("200")
    assert {*operation["responses"], "200"} == set(predict["responses"])
    assert set(success["content"]) == {"application/json", "application/octet-stream"}
    assert "embedding-dims" in success["headers"]


def test_document_has_no_422(document: dict[str, Any]) -> None:
    """An invalid parameter is a 400 problem; FastAPI's own 422 is never sent."""
    assert [
        path
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if "422" in operation["responses"]
    ] == []


def test_errors_are_documented_as_problem_details(document: dict[str, Any]) -> None:
    """The documented media type of every error is application/problem+json."""
    for path in PREDICT_PATHS:
        for status, answer in document["paths"][path]["post"]["responses"].items():
            if status.startswith(("4", "5")):
                assert list(answer["content"]) == ["application/problem+json"]


def test_all_routes_are_documented(document: dict[str, Any]) -> None:
    """Every public route is documented; the pages themselves are not."""
    public = {
        *PREDICT_PATHS,
        *EMBED_PATHS,
        "/v1/models",
        "/v1/models/{model}",
        "/v1/models/{model}/versions/{version}",
        "/v1/models/{model}/versions/{version}/examples",
        "/v1/models/{model}/versions/{version}/examples/{index}",
        "/v1/models/{model}/versions/{version}/report",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    others = {*MANAGEMENT_PATHS, *OPEN_INFERENCE_PATHS, *INSTANCES_PATHS}
    assert set(document["paths"]) == public | others


@pytest.mark.parametrize("path", [*OPEN_INFERENCE_PATHS, *INSTANCES_PATHS])
def test_errors_of_open_inference_routes_are_documented(
    document: dict[str, Any], path: str
) -> None:
    """All of them are `{"error": …}`; those that need a key say so."""
    (operation,) = document["paths"][path].values()
    for status, answer in operation["responses"].items():
        if status.startswith(("4", "5")):
            (media_type, content), *others = answer["content"].items()
            assert (media_type, others) == ("application/json", [])
            assert resolve(document, content["schema"]["$ref"])["required"] == ["error"]
    statuses = set(operation["responses"])
    if "/repository/" in path:
        assert operation["security"] == [{"HTTPBearer": []}]
        assert {"400", "401", "403"} <= statuses
    elif path.endswith(("/infer", ":predict")):
        assert {"400", "401", "404", "413", "429", "500", "503", "504"} <= statuses
    elif "{model}" in path:
        assert {"400", "404", "503"} <= statuses


@pytest.mark.parametrize("path", MANAGEMENT_PATHS)
def test_management_routes_are_documented_with_their_key(
    document: dict[str, Any], path: str
) -> None:
    """Their errors are problems, and the page offers to enter a key."""
    (operation,) = document["paths"][path].values()
    assert operation["security"] == [{"HTTPBearer": []}]
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert {"401", "403", "404", "409", "503"} <= set(operation["responses"])
    for status, answer in operation["responses"].items():
        if status.startswith(("4", "5")):
            assert list(answer["content"]) == ["application/problem+json"]


def test_response_has_the_documented_properties(
    client: httpx.Client, document: dict[str, Any]
) -> None:
    """A real response has exactly the properties of its schema."""
    schemas = document["components"]["schemas"]
    answer = client.post("/v1/predict", content=plain("red")).json()
    assert set(answer) == set(schemas["PredictResponse"]["properties"])
    assert set(answer["timings"]) == set(schemas["Timings"]["properties"])
    assert set(answer["results"][0]["predictions"][0]) == set(schemas["Prediction"]["properties"])
    problem = client.post("/v1/predict", content=b"x").json()
    assert (
        set(schemas["Problem"]["required"]) <= set(problem) <= set(schemas["Problem"]["properties"])
    )


@pytest.mark.parametrize("path", PREDICT_PATHS)
def test_form_of_the_page_is_answered_as_it_is_pre_filled(
    client: httpx.Client, document: dict[str, Any], path: str
) -> None:
    """Swagger UI fills in defaults and examples: none may be wrong for some model."""
    operation = document["paths"][path]["post"]
    assert not [
        one for one in operation["parameters"] if one["in"] == "query" and "example" in str(one)
    ]
    defaults = {
        parameter["name"]: parameter["schema"]["default"]
        for parameter in operation["parameters"]
        if "default" in parameter["schema"]
    }
    assert set(defaults) == {"top_k", "embedding", "priority"}
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    example = resolve(document, body["$ref"])["example"]
    route = path.format(model=MODEL, version=1)
    answer = client.post(route, params=defaults, json=example)
    assert (answer.status_code, labels(answer.json()["results"])) == (200, ["red"])
