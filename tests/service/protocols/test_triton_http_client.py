"""The real `tritonclient[http]`, in an environment of its own: sync, async and aio."""

import json
from pathlib import Path
from typing import Any

import pytest
from client_environment import run_client
from colour_model import MODEL, SIZE, make_store, plain, publish
from operating import operating

CLASSES = 7
INFERRED = {
    "json": {"id": "json", "version": "1", "labels": ["red", "blue"], "sum": [1.0, 1.0]},
    "binary": {"id": "binary", "version": "1", "labels": ["red", "blue"], "sum": [1.0, 1.0]},
    "encoded": {"id": "encoded", "version": "1", "labels": ["cyan"], "sum": [1.0]},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each call returned."""
    folder = tmp_path_factory.mktemp("triton")
    store = make_store(folder / "store")
    publish(store)
    publish(store, "other")
    (folder / "image.jpg").write_bytes(plain("cyan", "JPEG"))
    with operating(store, "--required-models", MODEL) as operator:
        address = operator.server.address.removeprefix("http://")
        output = run_client(
            Path(__file__).with_name("triton_http_calls.py"),
            address,
            operator.secret,
            folder / "image.jpg",
        )
    parsed: dict[str, Any] = json.loads(output)
    return parsed


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_health_metadata_and_configuration(found: dict[str, Any], kind: str) -> None:
    """Both clients parse what the service says about itself and its models."""
    calls = found[kind]
    assert calls["live"] is calls["ready"] is True
    assert calls["model ready"] == {"sync": [True, True, False, False], "aio": [True, False]}[kind]
    assert {"binary_tensor_data", "classification", "statistics"} <= set(
        calls["server"]["extensions"]
    )
    metadata, config = calls["metadata"], calls["config"]
    assert (metadata["name"], metadata["versions"]) == (MODEL, ["1"])
    assert metadata["inputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}
    ]
    assert [output["shape"] for output in metadata["outputs"]] == [
        [-1, CLASSES],
        [-1, CLASSES],
        [-1],
    ]
    assert config["max_batch_size"] >= 1
    assert config["input"] == [
        {"name": "images", "data_type": "TYPE_UINT8", "dims": [SIZE, SIZE, 3]}
    ]
    assert [output["name"] for output in config["output"]] == [
        output["name"] for output in metadata["outputs"]
    ]


def test_inference_in_every_form(found: dict[str, Any]) -> None:
    """Pixels as JSON and as bytes, an encoded image, in parallel, and ranked classes."""
    calls = found["sync"]
    assert calls["infer"] == found["aio"]["infer"] == INFERRED
    assert calls["async"] == [{**INFERRED["binary"], "id": str(number)} for number in range(4)]
    assert [row[0] for row in calls["classes"]] == ["red", "blue"]
    assert calls["outputs"] == ["logits", "probabilities"]


def test_repository_is_listed_loaded_and_unloaded(found: dict[str, Any]) -> None:
    """With a key of the scope `manage`. A model that must serve stays."""
    manage = found["sync"]["manage"]
    ready = {"version": "1", "state": "READY", "reason": ""}
    assert manage["index"] == [{"name": MODEL, **ready}, {"name": "other", **ready}]
    assert manage["no key"][0] == "401"
    assert manage["load with config"][0] == "400"
    assert manage["unload required"][0] == "409"
    assert (manage["unloaded"], manage["loaded"]) == (False, True)
    assert found["aio"]["unloaded"] is False
    assert found["aio"]["index"] == manage["index"]


def test_statistics_count_requests_images_and_batches(found: dict[str, Any]) -> None:
    """perf_analyzer reads them for its times by stage."""
    (stats,) = found["sync"]["stats"]
    assert (stats["name"], stats["version"]) == (MODEL, "1")
    assert stats["inference_count"] == 2 + 2 + 1 + 4 * 2 + 2
    assert 1 <= stats["execution_count"] <= 8
    assert stats["last_inference"] > 1e12
    times = stats["inference_stats"]
    assert (times["success"]["count"], times["fail"]["count"]) == (8, 0)
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert all(times[stage]["count"] == 8 for stage in stages)
    assert 0 < sum(times[stage]["ns"] for stage in stages) <= times["success"]["ns"]
    batches = stats["batch_stats"]
    assert sum(each["compute_infer"]["count"] for each in batches) == stats["execution_count"]
    assert found["sync"]["all stats"] == [MODEL, "other"]


def test_errors_have_a_status_and_a_message(found: dict[str, Any]) -> None:
    """The client finds them in `error`."""
    errors = found["sync"]["errors"]
    assert {name: status for name, (status, _) in errors.items()} == {
        "no model": "404",
        "no route": "404",
        "compressed": "415",
    }
    assert all(len(message) > 10 for _, message in errors.values())
