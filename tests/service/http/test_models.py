"""The model and health routes over real HTTP."""

import httpx
from colour_model import CLASS_NAMES, MODEL, SIZE, publish, publish_deviating
from http_problems import check_problem
from server_process import running

from model_store.store import ModelStore


def test_models_are_listed(client: httpx.Client) -> None:
    """GET /v1/models has every model with the version that answers."""
    listed = client.get("/v1/models").json()
    assert listed["default_model"] == MODEL
    assert "SERVICE_DEFAULT_MODEL" in listed["default_model_help"]
    (model,) = listed["models"]
    assert set(model) >= {"model", "state", "version", "digest", "proof", "precision", "default"}
    assert (model["intra_op_num_threads"], model["lone_threads"]) == (1, 1)
    assert (model["model"], model["state"], model["version"], model["default"]) == (
        MODEL,
        "ready",
        1,
        True,
    )
    assert model["digest"].startswith("sha256:")


def test_model_details_show_input_and_classes(client: httpx.Client) -> None:
    """GET /v1/models/{model} has classes, input and preprocessing."""
    detail = client.get(f"/v1/models/{MODEL}").json()
    assert detail["class_names"] == list(CLASS_NAMES)
    assert (detail["input"]["height"], detail["input"]["width"]) == (SIZE, SIZE)
    assert detail["preprocessing"]["resize"] == SIZE
    assert detail["proof"] == "proven"
    assert detail["versions"] == [{"version": 1, "state": "ready", "reason": None, "held": None}]
    assert detail["max_batch_size"] == 16


def test_live_and_ready_are_different_routes(client: httpx.Client) -> None:
    """A healthy server gives no reason."""
    assert client.get("/health/live").json() == {"status": "live"}
    ready = client.get("/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_server_does_not_name_its_software(client: httpx.Client) -> None:
    """There is no Server header."""
    assert "server" not in client.get("/health/live").headers


def test_health_answers_head_requests(client: httpx.Client) -> None:
    """Load balancers use HEAD."""
    assert [client.head(f"/health/{name}").status_code for name in ("live", "ready")] == [200, 200]


def test_trailing_slash_is_not_redirected(client: httpx.Client) -> None:
    """A redirect would send the image to any Host that the client names."""
    response = client.post("/v1/predict/", content=b"x")
    assert (response.status_code, response.json()["code"]) == (400, "not_an_image")


def test_a_version_is_shown_whether_or_not_it_serves(store: ModelStore) -> None:
    """With the state and the reason if it cannot serve."""
    publish(store)
    publish_deviating(store)
    with running("--store", store.root, "--no-builtin") as server:
        client = server.announced().client()
        first, second = (client.get(f"/v1/models/{MODEL}/versions/{n}").json() for n in (1, 2))
        check_problem(client.get(f"/v1/models/{MODEL}/versions/3"), 404, "version_not_found")
        check_problem(client.get("/v1/models/none/versions/1"), 404, "model_not_found")
        client.close()
    assert (first["state"], first["golden_images"], first["metrics"]) == ("ready", 2, None)
    assert (second["state"], second["version"]) == ("error", 2)
    assert second["reason"]
    assert first["digest"] != second["digest"]
