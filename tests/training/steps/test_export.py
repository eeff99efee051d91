"""Exports follow the contract, are reproducible, and contain no paths."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from model_store.manifest import Input
from model_store.session import Session
from model_store.store import ModelStore
from training.errors import ExportError
from training.gates.gate import gate
from training.run.data import open_run_data
from training.run.directory import Run
from training.steps.export import MODEL_FILE, OUTPUTS, WEIGHTS_FILE, check_graph, export
from training.steps.publish import publish

SHAPE = Input(height=32, width=32)


def test_the_same_weights_export_to_the_same_bytes(run_copy: Run) -> None:
    """Digests of two exports of a run are equal."""
    first = (run_copy.path / MODEL_FILE).read_bytes()
    assert export(run_copy).read_bytes() == first


def test_an_export_contains_no_paths_or_stack_traces(finished_run: Run) -> None:
    data = (finished_run.path / MODEL_FILE).read_bytes()
    assert not any(trace in data for trace in (b".py", b"/training", b"site-packages", b"File "))


def test_features_and_classifier_give_the_logits(finished_run: Run) -> None:
    """mean(features) x weight + bias equals the logits. Class-activation maps need it."""
    data = open_run_data(finished_run)
    session = Session(finished_run.path / MODEL_FILE, SHAPE, OUTPUTS)
    logits, features = session.run_with_features(next(data.chunks(np.arange(5))))
    with np.load(finished_run.path / "classifier.npz") as archive:
        recomputed = features.mean((2, 3)) @ archive["weight"].T + archive["bias"]
    assert features.shape == (5, 64, 8, 8)
    assert np.abs(recomputed - logits).max() < 1e-4


def test_embedding_and_classifier_give_the_logits(finished_run: Run) -> None:
    """The embedding is the mean of the feature map; embedding x weight + bias are the logits."""
    pixels = next(open_run_data(finished_run).chunks(np.arange(5)))
    session = Session(finished_run.path / MODEL_FILE, SHAPE, OUTPUTS)
    logits, embeddings = session.run_with_embedding(pixels)
    _, features = session.run_with_features(pixels)
    with np.load(finished_run.path / "classifier.npz") as archive:
        recomputed = embeddings @ archive["weight"].T + archive["bias"]
    assert embeddings.shape == (5, session.embedding_dims) == (5, 64)
    assert np.abs(embeddings - features.mean((2, 3))).max() < 1e-5
    assert np.abs(recomputed - logits).max() < 1e-4


def test_large_weights_are_stored_in_a_second_file(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files are gated and published. A smaller export deletes the second file."""
    data, whole = open_run_data(run_copy), (run_copy.path / MODEL_FILE).read_bytes()
    monkeypatch.setattr("training.steps.export.ONE_FILE_BYTES", 1_000_000)
    export(run_copy)
    gate(run_copy, data, {"accuracy_jpeg": "three epochs"})
    (tmp_path / "store").mkdir()
    publish(run_copy, data, ModelStore(tmp_path / "store"))
    with ModelStore(tmp_path / "store").open(run_copy.config.model, 1) as version:
        assert (
            version.path(WEIGHTS_FILE).stat().st_size
            > 1_000_000
            > version.path(MODEL_FILE).stat().st_size
        )
        session = Session(version.path(MODEL_FILE), SHAPE, OUTPUTS)
        images = next(data.chunks(np.arange(5)))
        assert np.array_equal(
            session.run(images),
            Session(_written(tmp_path / "whole.onnx", whole), SHAPE, OUTPUTS).run(images),
        )
    monkeypatch.undo()
    assert export(run_copy).read_bytes() == whole
    assert not run_copy.has(WEIGHTS_FILE)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rename_batch(model: onnx.ModelProto) -> None:
    """Rename the batch dimension."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "s34"


def fix_batch(model: onnx.ModelProto) -> None:
    """Fix the batch size to 2."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def leave_a_trace(model: onnx.ModelProto) -> None:
    """Put a stack trace on a node."""
    model.graph.node[3].doc_string = "File train.py, line 1"


def lower_opset(model: onnx.ModelProto) -> None:
    """Lower the opset version."""
    model.opset_import[0].version = 18


def add_batch_norm(model: onnx.ModelProto) -> None:
    """Add a batch normalization that is not folded."""
    names = [f"bn_{part}" for part in ("scale", "bias", "mean", "var")]
    for name in names:
        model.graph.initializer.append(
            helper.make_tensor(name, onnx.TensorProto.FLOAT, [64], [1.0] * 64)
        )
    model.graph.node.append(
        helper.make_node("BatchNormalization", ["features", *names], ["normalized"])
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_batch, "s34"),
        (fix_batch, "images is 2"),
        (leave_a_trace, "stack traces"),
        (lower_opset, "opset is 18"),
        (add_batch_norm, "1 batch norms were not folded"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_rejected(
    finished_run: Run,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    """The error names the violation."""
    model = onnx.load(finished_run.path / MODEL_FILE)
    onnx.save(model, tmp_path / MODEL_FILE)
    check_graph(tmp_path / MODEL_FILE, SHAPE)
    change(model)
    onnx.save(model, tmp_path / MODEL_FILE)
    with pytest.raises(ExportError, match=message):
        check_graph(tmp_path / MODEL_FILE, SHAPE)
