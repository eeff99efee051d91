"""The model and health routes over real HTTP."""

import httpx
from colour_model import CLASS_NAMES, MODEL, SIZE


def test_models_are_listed(client: httpx.Client) -> None:
    """GET /v1/models has every model with what serves of it."""
    (model,) = client.get("/v1/models").json()["models"]
    assert list(model) == ["model", "state", "version", "digest", "proof", "precision", "default"]
    assert (model["model"], model["state"], model["version"], model["default"]) == (
        MODEL,
        "ready",
        1,
        True,
    )
    assert model["digest"].startswith("sha256:")


def test_model_says_what_it_takes_and_knows(client: httpx.Client) -> None:
    """GET /v1/models/{model} has the classes, the input and how an image becomes it."""
    detail = client.get(f"/v1/models/{MODEL}").json()
    assert detail["class_names"] == list(CLASS_NAMES)
    assert (detail["input"]["height"], detail["input"]["width"]) == (SIZE, SIZE)
    assert detail["preprocessing"]["resize"] == SIZE
    assert detail["proof"] == "proven"
    assert detail["versions"] == [{"version": 1, "state": "ready", "reason": None, "held": None}]
    assert detail["max_batch_size"] == 16


def test_health_is_two_answers(client: httpx.Client) -> None:
    """Live says that the process answers, ready that it may be sent traffic; a healthy one has no reason to give."""
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_server_does_not_name_its_software(client: httpx.Client) -> None:
    """No Server header tells a stranger what to attack."""
    assert "server" not in client.get("/health/live").headers


def test_health_answers_head_requests(client: httpx.Client) -> None:
    """Load balancers ask with HEAD."""
    assert [client.head(f"/health/{name}").status_code for name in ("live", "ready")] == [200, 200]


def test_a_trailing_slash_is_no_redirect(client: httpx.Client) -> None:
    """A redirect would lead to whatever Host the client has sent, and take the photo there."""
    response = client.post("/v1/predict/", headers={"Host": "elsewhere.example"}, content=b"x")
    assert (response.status_code, response.json()["code"]) == (404, "route_not_found")
