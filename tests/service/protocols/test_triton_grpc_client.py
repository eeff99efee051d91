"""The real `tritonclient[grpc]`, in an environment of its own: sync, async, streams and aio."""

import json
from pathlib import Path
from typing import Any

import pytest
from client_environment import run_client
from colour_model import MODEL, SIZE, make_store, plain, publish
from operating import operating

CLASSES = "7"
INFERRED = {
    "pixels": {"id": "pixels", "version": "1", "labels": ["red", "blue"], "sum": [1.0, 1.0]},
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
    with operating(store, "--required-models", MODEL, "--grpc-port", 0) as operator:
        running = operator.server.stderr.wait_for(r"gRPC server running on (\S+)")
        assert running
        output = run_client(
            Path(__file__).with_name("triton_grpc_calls.py"),
            running[1],
            operator.secret,
            folder / "image.jpg",
        )
        for status in (200, 404):  # lines of the log may arrive a moment after the answer
            line = f'"GRPC /inference.GRPCInferenceService/ModelInfer" {status}'
            assert operator.server.stderr.wait_for(line), operator.server.stderr.text
    parsed: dict[str, Any] = json.loads(output)
    return parsed


@pytest.mark.parametrize("kind", ["sync", "aio"])
def test_health_metadata_and_configuration(found: dict[str, Any], kind: str) -> None:
    """Both clients parse what the service says about itself and its models."""
    calls = found[kind]
    assert calls["live"] is calls["ready"] is True
    assert calls["model ready"] == [True, True]
    assert {"classification", "statistics"} <= set(calls["server"]["extensions"])
    metadata, config = calls["metadata"], calls["config"]["config"]
    assert (metadata["name"], metadata["versions"]) == (MODEL, ["1"])
    sides = [str(SIZE), str(SIZE), "3"]
    assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", *sides]}]
    assert [output["shape"] for output in metadata["outputs"]][:2] == [["-1", CLASSES]] * 2
    assert config["max_batch_size"] >= 1
    assert config["input"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": sides}]
    assert [output["data_type"] for output in config["output"]] == [
        "TYPE_FP32",
        "TYPE_FP32",
        "TYPE_STRING",
    ]


def test_inference_in_every_form(found: dict[str, Any]) -> None:
    """Pixels and encoded images, compressed, in parallel, and ranked classes."""
    calls = found["sync"]
    assert calls["infer"] == found["aio"]["infer"] == INFERRED
    assert calls["compressed"]["labels"] == ["red", "blue"]
    assert calls["async"] == [{**INFERRED["pixels"], "id": str(number)} for number in range(4)]
    assert [row[0] for row in calls["classes"]] == ["red", "blue"]


def test_stream_answers_in_order(found: dict[str, Any]) -> None:
    """A request that fails gets its error, and the stream goes on."""
    answers = found["sync"]["stream"]
    assert "none" in answers.pop(7)
    assert answers == [str(number) for number in range(40) if number != 7]
    assert found["aio"]["stream"] == ["0", "1", "2", "3", "4"]


def test_repository_is_listed_loaded_and_unloaded(found: dict[str, Any]) -> None:
    """With a key of the scope `manage`. A model that must serve stays."""
    manage = found["sync"]["manage"]
    ready = {"version": "1", "state": "READY"}
    assert manage["index"] == [{"name": MODEL, **ready}, {"name": "other", **ready}]
    assert found["aio"]["index"] == manage["index"]
    assert manage["no key"][0] == "StatusCode.UNAUTHENTICATED"
    assert manage["load with config"][0] == "StatusCode.INVALID_ARGUMENT"
    assert manage["unload required"][0] == "StatusCode.FAILED_PRECONDITION"
    assert manage["unloaded"][0] == "StatusCode.UNAVAILABLE"
    assert manage["loaded"] is found["aio"]["loaded"] is True


def test_statistics_count_requests_images_and_batches(found: dict[str, Any]) -> None:
    """The same as over HTTP."""
    (stats,) = found["sync"]["stats"]
    assert (stats["name"], stats["version"]) == (MODEL, "1")
    assert stats["inference_stats"]["success"]["count"] == str(2 + 1 + 39 + 4 + 1)
    assert stats["inference_count"] == str(2 + 1 + 2 + 39 * 2 + 4 * 2 + 2)
    batches = stats["batch_stats"]
    assert sum(int(each["compute_infer"]["count"]) for each in batches) == int(
        stats["execution_count"]
    )
    assert found["sync"]["all stats"] == [MODEL, "other"]


def test_errors_have_a_status_and_a_message(found: dict[str, Any]) -> None:
    """As the HTTP routes have, in the terms of gRPC."""
    errors = found["sync"]["errors"]
    assert {name: status.removeprefix("StatusCode.") for name, (status, _) in errors.items()} == {
        "no model": "NOT_FOUND",
        "no version": "NOT_FOUND",
        "no number": "INVALID_ARGUMENT",
        "no method": "UNIMPLEMENTED",
        "no output": "INVALID_ARGUMENT",
    }
    assert found["sync"]["model missing"][0] == "StatusCode.NOT_FOUND"
    assert all(len(message) > 10 for _, message in errors.values())
