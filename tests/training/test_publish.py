"""Publishing: a run becomes a sealed version that verifies, proves itself and says where it comes from."""

from pathlib import Path

import pytest

from model_store import golden
from model_store.session import Session
from model_store.store import ModelStore
from training import gates, pipeline
from training.errors import GateError
from training.publish import publish
from training.run_directory import RunDirectory

WAIVERS = {"accuracy_jpeg": "three epochs"}


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store that does not exist yet."""
    return ModelStore(tmp_path / "store", builtin_root=None)


def test_a_published_run_proves_itself_and_names_its_origin(run_copy: RunDirectory, store: ModelStore) -> None:
    """Files verify, the golden proof holds, `production` points to it, and the manifest tells command, data and seed."""
    data = pipeline.start(run_copy)
    gates.gate(run_copy, data, WAIVERS)
    assert publish(run_copy, data, store) == 1
    with store.open("digits-resnet20", store.resolve("digits-resnet20")) as version:
        manifest = version.manifest
        golden.prove(version, Session(version.path("model.onnx"), manifest.input, manifest.outputs))
        assert manifest.training is not None
        assert manifest.metrics is not None
        assert manifest.training.command == "python -m training run"
        assert manifest.training.data.digest == data.digest
        assert manifest.training.data.split == {"train": 1257, "validation": 180, "test": 360}
        assert manifest.training.run_id == run_copy.run_id
        assert manifest.metrics.test_images == 360
        assert manifest.gate == gates.read_checks(run_copy)
    assert store.aliases("digits-resnet20").version("production") == 1


def test_no_promote_publishes_and_leaves_production_alone(run_copy: RunDirectory, store: ModelStore) -> None:
    """The second version is there, and `production` still names the first."""
    data = pipeline.start(run_copy)
    gates.gate(run_copy, data, WAIVERS)
    publish(run_copy, data, store)
    assert publish(run_copy, data, store, promote=False) == 2
    assert store.aliases("digits-resnet20").version("production") == 1


def test_what_failed_its_gates_is_not_published(run_copy: RunDirectory, store: ModelStore) -> None:
    """Nothing appears in the store."""
    figures = run_copy.read_json("evaluation.json", "evaluate")
    run_copy.write_json("evaluation.json", {**figures, "top1": 0.1})
    data = pipeline.start(run_copy)
    gates.gate(run_copy, data, WAIVERS)
    with pytest.raises(GateError, match="accuracy_floor failed"):
        publish(run_copy, data, store)
    assert not store.root.exists()
