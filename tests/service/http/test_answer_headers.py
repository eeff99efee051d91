"""The headers that say which version answered, how long it took, and which request it was."""

import re

import httpx
import pytest
from colour_model import MODEL, plain
from server_process import ServerProcess

RED = plain("red")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STAGES = ["receive", "decode", "queue", "infer", "total"]


def timings(response: httpx.Response) -> dict[str, float]:
    entries = [entry.split(";dur=") for entry in response.headers["server-timing"].split(", ")]
    return {name: float(milliseconds) for name, milliseconds in entries}


def test_every_response_of_a_version_names_it(client: httpx.Client) -> None:
    """Errors too, once the version is known: a damaged image, no prediction sets, no body."""
    digest = client.get(f"/v1/models/{MODEL}").json()["digest"]
    for query, body, status in (
        ("", RED, 200),
        ("", RED[:-30], 400),
        ("?coverage=0.9", RED, 400),
        ("", b"", 400),
    ):
        response = client.post(f"/v1/predict{query}", content=body)
        assert response.status_code == status
        assert response.headers["model-name"] == MODEL
        assert response.headers["model-version"] == "1"
        assert response.headers["model-digest"] == digest


def test_response_without_a_version_names_none(client: httpx.Client) -> None:
    for path, status in (("/v1/models/nobody/predict", 404), ("/v1/predict?top_k=0", 400)):
        response = client.post(path, content=RED)
        assert response.status_code == status
        assert not {"model-name", "model-version", "model-digest"} & set(response.headers)
        assert list(timings(response)) == ["total"]


def test_server_timing_has_the_stages_of_the_body(client: httpx.Client) -> None:
    """The browser's developer tools show them."""
    response = client.post("/v1/predict", content=RED)
    measured = timings(response)
    assert list(measured) == STAGES
    document = response.json()["timings"]
    for stage, name in zip(STAGES[:4], ["receive", "decode", "queue", "inference"], strict=True):
        assert measured[stage] == pytest.approx(document[f"{name}_ms"], abs=0.001)


def test_server_timing_of_an_error_has_the_stages_until_then(client: httpx.Client) -> None:
    stages = list(timings(client.post("/v1/predict", content=RED[:-30])))
    assert stages[0] == "receive"
    assert stages[-1] == "total"


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/models", "/nowhere", "/health/live"])
def test_valid_traceparent_is_kept(client: httpx.Client, path: str) -> None:
    response = client.request(
        "POST" if "predict" in path else "GET", path, headers={"traceparent": TRACEPARENT}
    )
    assert response.headers["traceparent"] == TRACEPARENT
    assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])


@pytest.mark.parametrize(
    "sent",
    [
        TRACEPARENT.upper(),
        TRACEPARENT.replace("00-", "01-", 1),
        TRACEPARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        TRACEPARENT.replace("b7ad6b7169203331", "0" * 16),
        f"{TRACEPARENT}-x",
        "x",
    ],
)
def test_invalid_traceparent_is_ignored(client: httpx.Client, sent: str) -> None:
    response = client.get("/health/live", headers={"traceparent": sent})
    assert response.status_code == 200
    assert "traceparent" not in response.headers


def test_log_line_has_the_trace_id(server: ServerProcess, client: httpx.Client) -> None:
    headers = {"traceparent": TRACEPARENT, "x-request-id": "traced-1"}
    client.post("/v1/predict", content=RED, headers=headers)
    assert server.stderr.wait_for(r'POST /v1/predict" 200 .* id=traced-1 trace=0af7\w{28}$')
