"""Files that are not what they say get clear errors, and never a traceback."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
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
from training.importing.foreign_file import read_foreign

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])


def import_file(path: Path, *words: str, labels: tuple[str, ...] = LABELS) -> str:
    """What `import` says of a file that it refuses with exit code 2, without a traceback and without a version."""
    store = path.parent / "store"
    command = [
        "import",
        "--onnx",
        str(path),
        "--labels",
        str(write_labels(path.parent, labels)),
        "--model",
        "m",
    ]
    result = CliRunner().invoke(
        main, [*command, "--store", str(store), *(words or ("--preset", "torchvision"))]
    )
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "an error of ours, not a traceback"
    assert not list(store.glob("*"))
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    "data",
    [b"", b"words and more words", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(64), b"\x08\x08"],
)
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    """Empty, text, an image, zeros, a header without a graph."""
    (tmp_path / "foreign.onnx").write_bytes(data)
    assert "is no ONNX" in import_file(tmp_path / "foreign.onnx")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    """Half a download."""
    path = write(tmp_path, foreign_graph())
    path.write_bytes(path.read_bytes()[:-200])
    assert "is no ONNX" in import_file(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """protobuf lets such bytes through."""
    path = write(tmp_path, foreign_graph())
    path.write_bytes(path.read_bytes().replace(b"Relu_2_output", b"Relu_2_\xff\xfe\xfdput"))
    assert "the name b'Relu_2_\\xff\\xfe\\xfdput' is no text" in import_file(path)


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


def texts(model: onnx.ModelProto) -> None:
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
    model.graph.node[3].input[0] = "nobody makes this"


def unknown_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def unknown_output_type(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = -3


def no_opset(model: onnx.ModelProto) -> None:
    del model.opset_import[:]


def opset_to_come(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 2**40


def softmax_of_nothing(model: onnx.ModelProto) -> None:
    model.graph.node[-1].CopyFrom(helper.make_node("Softmax", [], [model.graph.output[0].name]))


def circle(model: onnx.ModelProto) -> None:
    output = model.graph.output[0].name
    model.graph.node[-1].CopyFrom(helper.make_node("Identity", [output], [output]))


def function_in_circles(model: onnx.ModelProto) -> None:
    call = helper.make_node("call", ["x"], ["y"], domain="own")
    model.functions.append(
        helper.make_function("own", "call", ["x"], ["y"], [call], [helper.make_opsetid("own", 1)])
    )
    model.opset_import.append(helper.make_opsetid("own", 1))


def roots_of_negatives(model: onnx.ModelProto) -> None:
    builder = Builder(model.graph.output[0].name)
    builder.add("Sub", np.array([1e5]))
    builder.add("Sqrt")
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.append(numpy_helper.from_array(builder.constants["Sub_0_0"], "Sub_0_0"))
    model.graph.output[0].name = builder.value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_input_type, "the input pixels is of element type 99, which ONNX does not have"),
        (unknown_output_type, "is of element type -3, which ONNX does not have"),
        (no_opset, "has opset 1, and the way to 20 is not known for it"),
        (opset_to_come, "can not be run"),
        (softmax_of_nothing, "it gives Softmax 0 inputs, too few for it"),
        (circle, "can not be run"),
        (roots_of_negatives, "answers pictures with NaN or infinity"),
        (function_in_circles, "its own functions can not be written out"),
        (
            two_inputs,
            "takes 2 inputs, and an image classifier takes one, the image: pixels (float ['?', 3, 32, 32]); age",
        ),
        (unknown_operator, "uses operators that opset 13 does not have: Rectify"),
        (own_operator, "does not have: com.example::Relu"),
        (flat_input, "is no batch of images, which has four axes"),
        (grey_input, "has no axis of three channels"),
        (token_input, "is no image: expected floats or uint8"),
        (open_layout, "may be NCHW or NHWC; say which with --layout"),
        (image_to_image, "it makes an image or a map"),
        (texts, "holds no scores but texts"),
        (dictionaries, "is no tensor (a sequence_type)"),
        (two_outputs, "several outputs with 5 scores"),
        (broken_graph, "can not be run"),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_reason(
    tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str
) -> None:
    """What it is, and what was expected."""
    model = foreign_graph()
    spoil(model)
    assert message in import_file(write(tmp_path, model))


def test_labels_of_another_number_are_refused(tmp_path: Path) -> None:
    """Both numbers are named."""
    assert "answers with 5 scores, the labels name 4 classes" in import_file(
        write(tmp_path, foreign_graph()), labels=LABELS[:4]
    )


def test_a_network_that_answers_each_class_by_itself_is_refused(tmp_path: Path) -> None:
    """A Sigmoid at the end is no distribution over classes."""
    assert "ends in a Sigmoid" in import_file(write(tmp_path, foreign_graph(end="Sigmoid")))


def test_a_softmax_over_something_else_is_refused(tmp_path: Path) -> None:
    """Over the batch, say."""
    model = foreign_graph(end="Softmax")
    model.graph.node[-1].attribute[0].i = 0
    assert "its scores do not sum to 1" in import_file(write(tmp_path, model))


def test_floats_without_a_range_are_asked_for_it(tmp_path: Path) -> None:
    """No file says how grey levels become the numbers that a network was trained on."""
    assert "give --preset (torchvision, caffe" in import_file(
        write(tmp_path, foreign_graph()), "--size", "32"
    )


def externally(folder: Path, location: str) -> Path:
    """A file whose first weight lies in another file."""
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


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    """And end in the one file of the version."""
    path = externally(tmp_path, "weights.bin")
    command = [
        "import",
        "--onnx",
        str(path),
        "--labels",
        str(write_labels(tmp_path)),
        "--model",
        "m",
        "--preset",
        "torchvision",
    ]
    target = tmp_path / "report.md"
    result = CliRunner().invoke(
        main, [*command, "--store", str(tmp_path / "store"), "--report", str(target)]
    )
    assert result.exit_code == 0, result.output
    assert not onnx.external_data_helper.uses_external_data(
        onnx.load(tmp_path / "store/m/1/model.onnx", load_external_data=False).graph.initializer[0]
    )


def test_the_digest_covers_the_weights_beside_the_file(tmp_path: Path) -> None:
    """As `sha256sum foreign.onnx weights.bin | cut -c-64 | sha256sum` has it; of one file, by a link too, it is its own."""
    path = externally(tmp_path, "weights.bin")
    one, other = (
        hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("foreign.onnx", "weights.bin")
    )
    assert read_foreign(path).sha256() == hashlib.sha256(f"{one}\n{other}\n".encode()).hexdigest()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    assert read_foreign(path).sha256() != hashlib.sha256(f"{one}\n{other}\n".encode()).hexdigest()
    whole = write(tmp_path, foreign_graph(), "whole.onnx")
    (tmp_path / "link.onnx").symlink_to(whole)
    digest = hashlib.sha256(whole.read_bytes()).hexdigest()
    assert [read_foreign(tmp_path / name).sha256() for name in ("whole.onnx", "link.onnx")] == [
        digest,
        digest,
    ]


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("lost.bin", "does not lie beside it"),
        ("../weights.bin", "outside its own folder"),
        ("/etc/hostname", "outside its own folder"),
        ("link.bin", "is a link or no plain file"),
        ("folder", "is a link or no plain file"),
    ],
)
def test_weights_that_are_missing_or_elsewhere_are_refused(
    tmp_path: Path, location: str, message: str
) -> None:
    """Nothing but plain files in the file's own folder is opened."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(10_000))
    (inner / "link.bin").symlink_to(tmp_path / "weights.bin")
    (inner / "folder").mkdir()
    assert message in import_file(externally(inner, location))


def test_weights_that_are_shorter_than_promised_are_refused(tmp_path: Path) -> None:
    """A download that was cut."""
    path = externally(tmp_path, "weights.bin")
    (tmp_path / "weights.bin").write_bytes(bytes(10))
    assert "can not be read: External data length (864) exceeds" in import_file(path)


def test_an_opset_that_nothing_here_knows_is_refused(tmp_path: Path) -> None:
    """With the opsets that would do."""
    model = foreign_graph()
    model.opset_import[0].version = 3
    assert "has opset 3, and the way to 20 is not known for it" in import_file(
        write(tmp_path, model)
    )


@pytest.mark.parametrize(
    "words", [("--scale", "0"), ("--scale", "1/255", "--std", "0"), ("--scale", "nan")]
)
def test_a_range_that_is_none_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Nothing can be divided by zero."""
    assert "can not be brought to this range" in import_file(
        write(tmp_path, foreign_graph()), *words
    )


def test_a_network_that_does_not_know_its_image_is_refused(tmp_path: Path) -> None:
    """Constant answers prove nothing: the check on the probes' spread fails with exit code 1."""
    builder = Builder("pixels")
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    builder.add("Gemm", np.zeros((CLASSES, 3)), np.arange(CLASSES, dtype=np.float32), transB=1)
    out = helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, ["n", CLASSES])
    path = write(tmp_path, model_of(builder, [PIXELS], [out]))
    command = [
        "import",
        "--onnx",
        str(path),
        "--labels",
        str(write_labels(tmp_path)),
        "--model",
        "m",
        "--preset",
        "torchvision",
    ]
    result = CliRunner().invoke(
        main,
        [*command, "--store", str(tmp_path / "store"), "--report", str(tmp_path / "report.md")],
    )
    assert result.exit_code == 1
    assert "not published: probe_spread" in result.output
    assert "FAILED: how far a class's score changes" in (tmp_path / "report.md").read_text()
