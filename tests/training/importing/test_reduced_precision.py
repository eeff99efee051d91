"""Files in INT8 or half precision: what is accepted, and what is said about the rest."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from foreign_graphs import LABELS, foreign_graph, write, write_labels
from onnxruntime.quantization import quantize_dynamic

from training.__main__ import main
from training.importing import served_graph
from training.importing.input_options import InputOptions
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS

OPTIONS = InputOptions(preset=PRESETS["torchvision"], preset_name="torchvision")


def dynamically_quantized(folder: Path) -> Path:
    source = write(folder, foreign_graph())
    quantize_dynamic(source, folder / "int8.onnx")
    return folder / "int8.onnx"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def import_preset(path: Path, *words: object) -> Result:
    """Import a file with torchvision's preprocessing; the report lies beside it."""
    report = path.parent / "report.md"
    return run("import", "--onnx", path, "--preset", "torchvision", "--report", report, *words)


def evidence(path: Path, subject: str) -> tuple[str, str]:
    entries = read_onnx(path, LABELS, OPTIONS).report.entries
    return next((entry.value, entry.evidence) for entry in entries if entry.subject == subject)


def test_a_dynamically_quantized_file_takes_single_images(tmp_path: Path) -> None:
    """The range of its activations is that of the whole batch; the report names the reason."""
    path = dynamically_quantized(tmp_path)
    value, reason = evidence(path, "batch")
    assert value == "1"
    assert "dynamically quantized" in reason
    assert evidence(path, "precision")[0].startswith("INT8 (")


def test_a_dynamically_quantized_file_whose_copy_differs_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding amplifies small float differences in deep networks, as this tolerance does."""
    monkeypatch.setattr(served_graph, "LOGIT_TOLERANCE", -1.0)
    path = dynamically_quantized(tmp_path)
    words = ("--labels", write_labels(tmp_path), "--model", "m", "--store", tmp_path / "store")
    result = import_preset(path, *words)
    assert result.exit_code == 2
    assert "DynamicQuantizeLinear" in result.output


def test_a_half_precision_file_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path, foreign_graph(dtype="float16"))
    precision, meaning = evidence(path, "precision")
    assert precision.startswith("fp16 (")
    assert "float32" in meaning  # ONNX Runtime's optimisations for CPUs


def test_quantize_names_the_precision_of_an_imported_half_precision_file(tmp_path: Path) -> None:
    """ONNX Runtime has put casts between its half-precision weights and the layers."""
    path, store = write(tmp_path, foreign_graph(dtype="float16")), tmp_path / "store"
    words = ("--labels", write_labels(tmp_path), "--model", "m", "--store", store)
    result = import_preset(path, *words)
    assert result.exit_code == 0, result.output
    result = run("quantize", "m", "--data", "digits", "--store", store)
    assert result.exit_code != 0
    assert "already fp16 (" in " ".join(result.output.split())


@pytest.mark.parametrize("kind", ["INT8", "fp16"])
def test_quantize_names_the_precision_of_what_it_gets(tmp_path: Path, kind: str) -> None:
    """Nothing is published."""
    if kind == "INT8":
        path = dynamically_quantized(tmp_path)
    else:
        path = write(tmp_path, foreign_graph(dtype="float16"))
    result = run("quantize", path, "--data", "digits", "--store", tmp_path / "store")
    assert result.exit_code != 0
    assert f"already {kind} (" in " ".join(result.output.split())


def test_quantize_names_the_precision_of_a_version(tmp_path: Path) -> None:
    """It was imported from an INT8 file, and stays the only version."""
    path = dynamically_quantized(tmp_path)
    words = ("--labels", write_labels(tmp_path), "--model", "m", "--store", tmp_path / "store")
    report = ("--preset", "torchvision", "--report", tmp_path / "report.md")
    assert run("import", "--onnx", path, *words, *report).exit_code == 0
    result = run("quantize", "m", "--data", "digits", "--store", tmp_path / "store")
    assert result.exit_code != 0
    assert "already INT8 (" in " ".join(result.output.split())
    assert [path.name for path in (tmp_path / "store" / "m").iterdir() if path.is_dir()] == ["1"]


def test_quantize_names_a_float_file_as_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, foreign_graph())
    result = run("quantize", path, "--data", "digits", "--store", tmp_path / "store")
    assert result.exit_code != 0
    assert "--onnx" in result.output


def test_float_graphs_have_no_reduced_precision(tmp_path: Path) -> None:
    report = read_onnx(write(tmp_path, foreign_graph()), LABELS, OPTIONS).report
    assert not [entry for entry in report.entries if entry.subject == "precision"]


def mxnet_graph(shape: tuple[int, ...], folder: Path) -> Path:
    """Opset 7, and a batch norm with spatial=0 and constants of this shape."""
    model = foreign_graph(opset=7, weights_as_inputs=True, batch=1)
    (norm,) = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    norm.attribute.append(onnx.helper.make_attribute("spatial", 0))
    for tensor in model.graph.initializer:
        if tensor.name in norm.input:
            values = np.broadcast_to(
                onnx.numpy_helper.to_array(tensor).reshape(-1, *[1] * (len(shape) - 1)), shape
            )
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(values), tensor.name))
    return write(folder, model, "mxnet.onnx")


def test_mxnets_batch_norms_per_channel_are_converted(tmp_path: Path) -> None:
    """With spatial=0 they mean the same as without; the scores are those of the original."""
    path = mxnet_graph((8,), tmp_path)
    assert evidence(path, "batch norms")[0] == "1 with spatial=0"
    assert read_onnx(path, LABELS, OPTIONS).max_batch_size == 32


def test_mxnets_batch_norms_per_pixel_are_refused(tmp_path: Path) -> None:
    path = mxnet_graph((8, 16, 16), tmp_path)
    words = ("--labels", write_labels(tmp_path), "--model", "m", "--store", tmp_path / "store")
    result = import_preset(path, *words)
    assert result.exit_code == 2
    assert "spatial=0" in " ".join(result.output.split())
