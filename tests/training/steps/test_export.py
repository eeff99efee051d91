"""Exports follow the contract, are the same bytes each time, and keep no trace of the machine they were made on."""

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
    """A second export of one run differs in nothing, so a digest means something."""
    first = (run_copy.path / MODEL_FILE).read_bytes()
    assert export(run_copy).read_bytes() == first


def test_no_path_or_stack_trace_stays_in_the_file(finished_run: Run) -> None:
    """A published file says nothing of the checkout that made it."""
    data = (finished_run.path / MODEL_FILE).read_bytes()
    assert not any(trace in data for trace in (b".py", b"/training", b"site-packages", b"File "))


def test_features_and_classifier_give_the_logits(finished_run: Run) -> None:
    """mean(features) x weight + bias are the logits: what class-activation maps rest on."""
    data = open_run_data(finished_run)
    session = Session(finished_run.path / MODEL_FILE, SHAPE, OUTPUTS)
    logits, features = session.run_with_features(next(data.chunks(np.arange(5))))
    with np.load(finished_run.path / "classifier.npz") as archive:
        again = features.mean((2, 3)) @ archive["weight"].T + archive["bias"]
    assert features.shape == (5, 64, 8, 8)
    assert np.abs(again - logits).max() < 1e-4


def test_weights_that_do_not_fit_into_one_file_lie_beside_it(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same graph and logits from two files, gated, sealed and verified together; a smaller export leaves one again."""
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
    """Another name for the free dimension."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "s34"


def fix_batch(model: onnx.ModelProto) -> None:
    """A batch of exactly two."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def leave_a_trace(model: onnx.ModelProto) -> None:
    """A stack trace on a node."""
    model.graph.node[3].doc_string = "File train.py, line 1"


def lower_opset(model: onnx.ModelProto) -> None:
    """Another opset than the stated one."""
    model.opset_import[0].version = 18


def add_batch_norm(model: onnx.ModelProto) -> None:
    """A batch norm that was not folded."""
    names = [f"bn_{part}" for part in ("scale", "bias", "mean", "var")]
    for name in names:
        model.graph.initializer.append(
            helper.make_tensor(name, onnx.TensorProto.FLOAT, [64], [1.0] * 64)
        )
    model.graph.node.append(
        helper.make_node("BatchNormalization", ["features", *names], ["normalized"])
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename_batch, "s34"),
        (fix_batch, "images is 2"),
        (leave_a_trace, "stack traces"),
        (lower_opset, "opset is 18"),
        (add_batch_norm, "1 batch norms were not folded"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(
    finished_run: Run,
    tmp_path: Path,
    spoil: Callable[[onnx.ModelProto], None],
    message: str,
) -> None:
    """Each promise that the exporter could break is checked on the file."""
    model = onnx.load(finished_run.path / MODEL_FILE)
    onnx.save(model, tmp_path / MODEL_FILE)
    check_graph(tmp_path / MODEL_FILE, SHAPE)
    spoil(model)
    onnx.save(model, tmp_path / MODEL_FILE)
    with pytest.raises(ExportError, match=message):
        check_graph(tmp_path / MODEL_FILE, SHAPE)
