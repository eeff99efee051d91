"""The examples of the OpenAPI document work, and every operation that needs one has one."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from documented_server import DocumentedServer
from server_process import PATIENCE_SECONDS


@pytest.fixture(scope="module")
def client(documented: DocumentedServer) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=documented.address,
        headers={"Authorization": f"Bearer {documented.key}"},
        timeout=PATIENCE_SECONDS,
        trust_env=False,
    ) as client:
        yield client


def example_of(document: dict[str, Any], content: dict[str, Any]) -> Any:
    schema = content["application/json"]["schema"]
    if "allOf" in schema:
        schema = schema["allOf"][0]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return schema.get("example")


def test_every_example_is_answered(client: httpx.Client) -> None:
    """Sends the documented path parameters and bodies. Some requests change the server."""
    document = client.get("/openapi.json").json()
    refused = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = {
                each["name"]: each.get("example", each["schema"].get("example"))
                for each in operation.get("parameters", ())
                if each["in"] == "path"
            }
            assert None not in parameters.values(), (method, path)
            body = operation.get("requestBody")
            content = body and example_of(document, body["content"])
            assert content is not None or not (body and body["required"]), (method, path)
            response = client.request(method, path.format(**parameters), json=content)
            if response.status_code != 200:
                refused[method, path] = response.status_code
                assert str(response.status_code) in operation["responses"]
    assert refused == {
        # The example names the model that answers without a name, which must not be unloaded.
        ("post", "/v2/repository/models/{model}/unload"): 409,
    }


def test_every_error_of_an_operation_has_its_status_and_an_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    examples = document["components"]["examples"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            assert "500" in responses, path
            for status, response in responses.items():
                for content in response.get("content", {}).values():
                    for code, reference in content.get("examples", {}).items():
                        value = examples[reference["$ref"].rsplit("/", 1)[-1]]["value"]
                        assert code in response["description"]
                        assert value.get("status", value.get("code", int(status))) == int(status)
