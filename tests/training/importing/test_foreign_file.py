"""Files that are not image classifiers are refused with a reason, never with a traceback."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from foreign_graphs import (
    CLASSES,
    LABELS,
    SIZE,
    Builder,
    foreign_graph,
    model_of,
    write,
    write_labels,
)
from onnx import TensorProto, helper, numpy_helper

from training.__main__ import main
from training.importing.foreign_file import read_foreign_file

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])


def import_command(path: Path, *words: str, labels: tuple[str, ...] = LABELS) -> Result:
    labels_file = write_labels(path.parent, labels)
    command = ["import", "--onnx", path, "--labels", labels_file, "--model", "m"]
    command += ["--store", path.parent / "store", "--report", path.parent / "report.md"]
    return CliRunner().invoke(main, [*map(str, command), *(words or ("--preset", "torchvision"))])


def refusal(path: Path, *words: str, labels: tuple[str, ...] = LABELS) -> str:
    """The message of an import that ends with exit code 2, without a traceback or a version."""
    result = import_command(path, *words, labels=labels)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert not list((path.parent / "store").glob("*"))
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    "data",
    [b"", b"words and more words", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(64), b"\x08\x08"],
)
def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, text, an image, zeros, or a header without a graph."""
    (tmp_path / "foreign.onnx").write_bytes(data)
    assert "foreign.onnx" in refusal(tmp_path / "foreign.onnx")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, foreign_graph())
    path.write_bytes(path.read_bytes()[:-200])
    assert "foreign.onnx" in refusal(path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Protobuf returns such names as bytes."""
    path = write(tmp_path, foreign_graph())
    path.write_bytes(path.read_bytes().replace(b"Relu_2_output", b"Relu_2_\xff\xfe\xfdput"))
    assert "b'Relu_2_\\xff\\xfe\\xfdput'" in refusal(path)


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["n", 1]))


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].op_type = "Rectify"


def own_operator(model: onnx.ModelProto) -> None:
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def flat_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3072])
    )


def grey_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 1, SIZE, SIZE])
    )


def token_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", TensorProto.INT64, ["n", 3, SIZE, SIZE])
    )


def open_layout(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", "a", "b", "c"])
    )


def image_to_image(model: onnx.ModelProto) -> None:
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(
            model.graph.node[2].output[0], TensorProto.FLOAT, ["n", 8, 16, 16]
        )
    )


def strings(model: onnx.ModelProto) -> None:
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("label", TensorProto.STRING, ["n"])
    )


def dictionaries(model: onnx.ModelProto) -> None:
    entry = helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
    model.graph.output[0].CopyFrom(
        helper.make_value_info("scores", helper.make_sequence_type_proto(entry))
    )


def two_outputs(model: onnx.ModelProto) -> None:
    node = helper.make_node("Neg", [model.graph.output[0].name], ["other"])
    model.graph.node.append(node)
    model.graph.output.append(
        helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", CLASSES])
    )


def broken_graph(model: onnx.ModelProto) -> None:
    model.graph.node[3].input[0] = "missing_value"


def unknown_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def unknown_output_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = -3


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def future_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 2**40


def softmax_without_input(model: onnx.ModelProto) -> None:
    model.graph.node[-1].CopyFrom(helper.make_node("Softmax", [], [model.graph.output[0].name]))


def cycle(model: onnx.ModelProto) -> None:
    output = model.graph.output[0].name
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", [output], [output]))


def recursive_function(model: onnx.ModelProto) -> None:
    call = helper.make_node("call", ["x"], ["y"], domain="own")
    model.functions.append(
        helper.make_function("own", "call", ["x"], ["y"], [call], [helper.make_opsetid("own", 1)])
    )
    model.opset_import.append(helper.make_opsetid("own", 1))


def roots_of_negative_numbers(model: onnx.ModelProto) -> None:
    builder = Builder(model.graph.output[0].name)
    builder.add("Sub", np.array([1e5]))
    builder.add("Sqrt")
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.append(numpy_helper.from_array(builder.constants["Sub_0_0"], "Sub_0_0"))
    model.graph.output[0].name = builder.value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_input_type, "element type 99"),
        (unknown_output_type, "element type -3"),
        (no_opset, "opset 1,"),
        (future_opset, "foreign.onnx"),
        (softmax_without_input, "Softmax has 0 inputs"),
        (cycle, "foreign.onnx"),
        (roots_of_negative_numbers, "NaN"),
        (recursive_function, "functions"),
        (two_inputs, "2 inputs, expected 1, the image: pixels (float ['?', 3, 32, 32]); age"),
        (unknown_operator, "opset 13 does not have: Rectify"),
        (own_operator, "com.example::Relu"),
        (flat_input, "expected 4 axes"),
        (grey_input, "3 channels"),
        (token_input, "int64"),
        (open_layout, "--layout"),
        (image_to_image, "['?', 8, 16, 16]"),
        (strings, "element type string"),
        (dictionaries, "sequence_type"),
        (two_outputs, "--output"),
        (broken_graph, "missing_value"),
    ],
)
def test_a_file_that_is_not_a_classifier_is_refused_with_the_reason(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = foreign_graph()
    change(model)
    assert message in refusal(write(tmp_path, model))


def test_a_wrong_number_of_labels_is_refused(tmp_path: Path) -> None:
    """The message names both numbers."""
    message = refusal(write(tmp_path, foreign_graph()), labels=LABELS[:4])
    assert "5 scores" in message
    assert "4 labels" in message


def test_a_multi_label_network_is_refused(tmp_path: Path) -> None:
    """A final Sigmoid scores each class independently."""
    assert "Sigmoid" in refusal(write(tmp_path, foreign_graph(end="Sigmoid")))


def test_a_softmax_over_the_batch_is_refused(tmp_path: Path) -> None:
    model = foreign_graph(end="Softmax")
    model.graph.node[-1].attribute[0].i = 0
    assert "Softmax" in refusal(write(tmp_path, model))


def test_a_float_input_needs_a_pixel_range(tmp_path: Path) -> None:
    """No file states how grey levels become the network's floats."""
    message = refusal(write(tmp_path, foreign_graph()), "--size", "32")
    assert "--preset (torchvision, caffe" in message


def write_with_external_weight(folder: Path, location: str) -> Path:
    """A file whose first weight is in another file, `location`."""
    model = foreign_graph()
    tensor = model.graph.initializer[0]
    data = numpy_helper.to_array(tensor).tobytes()
    onnx.external_data_helper.set_external_data(
        tensor, location=location, offset=0, length=len(data)
    )
    tensor.ClearField("raw_data")
    path = folder / "foreign.onnx"
    path.write_bytes(model.SerializeToString())
    (folder / "weights.bin").write_bytes(data)
    return path


def test_external_weights_are_read(tmp_path: Path) -> None:
    """They become part of the version's only model file."""
    result = import_command(write_with_external_weight(tmp_path, "weights.bin"))
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / "store/m/1/model.onnx", load_external_data=False)
    assert not onnx.external_data_helper.uses_external_data(model.graph.initializer[0])


def test_the_digest_covers_external_weights(tmp_path: Path) -> None:
    """It is `sha256sum foreign.onnx weights.bin | cut -c-64 | sha256sum`.

    The digest of a single file, also through a link, is the file's own.
    """
    path = write_with_external_weight(tmp_path, "weights.bin")
    one, other = (
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("foreign.onnx", "weights.bin")
    )
    assert (
        read_foreign_file(path).sha256() == hashlib.sha256(f"{one}\n{other}\n".encode()).hexdigest()
    )
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    assert (
        read_foreign_file(path).sha256() != hashlib.sha256(f"{one}\n{other}\n".encode()).hexdigest()
    )
    whole = write(tmp_path, foreign_graph(), "whole.onnx")
    (tmp_path / "link.onnx").symlink_to(whole)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    assert [
        read_foreign_file(tmp_path / name).sha256() for name in ("whole.onnx", "link.onnx")
    ] == [
        digest,
        digest,
    ]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("lost.bin", "lost.bin"),
        ("../weights.bin", "outside its own folder"),
        ("/etc/hostname", "outside its own folder"),
        ("link.bin", "link"),
        ("folder", "folder"),
    ],
)
def test_weights_that_are_missing_or_elsewhere_are_refused(
    tmp_path: Path, location: str, message: str
) -> None:
    """Only plain files in the model's own folder are opened."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    (inner / "link.bin").symlink_to(tmp_path / "weights.bin")
    (inner / "folder").mkdir()
    assert message in refusal(write_with_external_weight(inner, location))


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    path = write_with_external_weight(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(10))
    assert "(864)" in refusal(path)


def test_an_opset_that_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    """The message names the opsets that can be."""
    model = foreign_graph()
    model.opset_import[0].version = 3
    message = refusal(write(tmp_path, model))
    assert "opset 3," in message
    assert "opset 7 to 20" in message


@pytest.mark.parametrize(
    "words", [("--scale", "0"), ("--scale", "1/255", "--std", "0"), ("--scale", "nan")]
)
def test_a_pixel_range_that_divides_by_zero_is_refused(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert "--scale and --std" in refusal(write(tmp_path, foreign_graph()), *words)


def test_a_network_with_constant_scores_is_not_published(tmp_path: Path) -> None:
    """Equal scores for every probe prove nothing, so `probe_spread` fails with exit code 1."""
    builder = Builder("pixels")
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    builder.add("Gemm", np.zeros((CLASSES, 3)), np.arange(CLASSES, dtype=np.float32), transB=1)
    out = helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, ["n", CLASSES])
    result = import_command(write(tmp_path, model_of(builder, [PIXELS], [out])))
    assert result.exit_code == 1
    assert "not published: probe_spread" in result.output
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert [line for line in lines if "FAILED" in line and "probe_spread" in line]
