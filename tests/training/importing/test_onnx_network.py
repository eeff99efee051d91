"""ONNX files as others write them: what is served answers as the original does, from the same bytes of an image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import CHANNELS, CLASSES, LABELS, SIZE, Builder, foreign_graph, model_of, write

from training.errors import ForeignModelError
from training.importing.candidate import Candidate, open_session
from training.importing.input_options import Expectation
from training.importing.input_spec import PixelRange
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS, Geometry, Preset, read_timm
from training.steps.export import OPSET

IMAGENET = PRESETS["torchvision"]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def images(number: int = 6) -> np.ndarray:
    """Noise of several brightnesses, uint8 `[n, SIZE, SIZE, 3]`."""
    chance = np.random.default_rng(1)
    return np.stack(
        [
            chance.integers(0, 30 * (step + 1), (SIZE, SIZE, 3), dtype=np.uint8)
            for step in range(number)
        ]
    )


def original_answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The file's own output, one image at a time, for what it wants of pixels."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate(
        [session.run(None, {name: image[np.newaxis]})[0].reshape(1, -1) for image in pixels]
    ).astype(np.float32)


def served_answers(candidate: Candidate, pixels: np.ndarray) -> np.ndarray:
    """Scores of what would be sealed, all images at once where it takes that."""
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    if candidate.max_batch_size == 1:
        return np.concatenate([session.run(image[np.newaxis]) for image in pixels])
    return session.run(pixels)


def import_graph(
    folder: Path, model: onnx.ModelProto, preset: Preset | None = IMAGENET, **values: Any
) -> tuple[Path, Candidate]:
    path = write(folder, model)
    return path, read_onnx(path, LABELS, Expectation(preset=preset, preset_name="preset", **values))


def certainty(candidate: Candidate, subject: str) -> tuple[str, str]:
    (finding,) = [finding for finding in candidate.report.findings if finding.subject == subject]
    return finding.value, finding.certainty


def evidence(candidate: Candidate, subject: str) -> str:
    (finding,) = [finding for finding in candidate.report.findings if finding.subject == subject]
    return finding.evidence


def closed(builder: Builder, classes: int, batch: int | str = "n") -> onnx.ModelProto:
    """The model of a builder that reads `pixels`, NCHW, and ends in scores."""
    floats = onnx.TensorProto.FLOAT
    pixels = onnx.helper.make_tensor_value_info("pixels", floats, [batch, 3, SIZE, SIZE])
    return model_of(
        builder,
        [pixels],
        [onnx.helper.make_tensor_value_info(builder.value, floats, [batch, classes])],
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("torchvision", lambda rgb: (rgb / 255 - MEAN) / STD),
        ("caffe", lambda rgb: rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])),
        ("tf", lambda rgb: rgb / 127.5 - 1),
        ("zero-one", lambda rgb: rgb / 255),
        ("minus-one-one", lambda rgb: rgb / 127.5 - 1),
    ],
)
def test_each_preset_and_layout_gives_the_network_what_it_wants(
    tmp_path: Path, layout: str, preset: str, wanted: Any
) -> None:
    """uint8 RGB in, and the same logits as the file has for floats in its own order, range and layout."""
    scale = 60.0 if preset == "caffe" else 1.0
    path, candidate = import_graph(
        tmp_path, foreign_graph(layout=layout, scale=scale), PRESETS[preset]
    )
    floats = wanted(images().astype(np.float64))
    expected = original_answers(
        path, (floats.transpose(0, 3, 1, 2) if layout == "NCHW" else floats).astype(np.float32)
    )
    assert np.ptp(expected, axis=0).max() > 0.5, "answers that are all alike would prove nothing"
    assert np.abs(served_answers(candidate, images()) - expected).max() < 1e-4
    assert certainty(candidate, "layout") == (layout, "found")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_network_of_bytes_gets_bytes(tmp_path: Path, layout: str, channels: str) -> None:
    """uint8 in both, with the channels turned where the network wants that."""
    path, candidate = import_graph(
        tmp_path, foreign_graph(layout=layout, dtype="uint8", scale=60.0), None, channels=channels
    )
    pixels = images() if channels == "RGB" else images()[..., ::-1]
    expected = original_answers(
        path, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels)
    )
    assert np.abs(served_answers(candidate, images()) - expected).max() < 1e-4
    assert certainty(candidate, "range") == ("0 to 255", "found")


def test_flags_go_before_the_preset(tmp_path: Path) -> None:
    """scale, mean, std and channels by flags: in the network's own order of channels."""
    values = {
        "scale": 1 / 128,
        "mean": (0.5, 0.25, 0.125),
        "std": (0.5, 1.0, 2.0),
        "channels": "BGR",
    }
    path, candidate = import_graph(tmp_path, foreign_graph(), IMAGENET, **values)
    floats = (images()[..., ::-1] / 128 - np.array(values["mean"])) / np.array(values["std"])
    expected = original_answers(path, floats.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.abs(served_answers(candidate, images()) - expected).max() < 1e-4


def test_half_precision_stays_inside(tmp_path: Path) -> None:
    """float16 in the network, float32 logits out."""
    path, candidate = import_graph(tmp_path, foreign_graph(dtype="float16"), PRESETS["zero-one"])
    expected = original_answers(path, (images() / 255).transpose(0, 3, 1, 2).astype(np.float16))
    found = served_answers(candidate, images())
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 2e-2


@pytest.mark.parametrize(
    ("pool", "head", "shown"),
    [
        ("GlobalAveragePool", "Gemm", True),
        ("GlobalAveragePool", "Gemm with alpha", True),
        ("GlobalAveragePool", "MatMul", True),
        ("GlobalAveragePool", "Conv", True),
        ("GlobalAveragePool", "none", True),
        ("AveragePool", "Gemm", True),
        ("ReduceMean", "MatMul", True),
        ("ReduceMean NHWC", "MatMul", True),
        ("AveragePool of a part", "Gemm", False),
        ("MaxPool", "Gemm", False),
        ("GlobalAveragePool", "two layers", False),
    ],
)
def test_a_pooled_linear_head_is_found_and_accepted_by_numbers(
    tmp_path: Path, pool: str, head: str, *, shown: bool
) -> None:
    """features and classifier.npz where mean(features) x weight + bias are the logits; else the report says why there are none."""
    path, candidate = import_graph(tmp_path, foreign_graph(pool=pool, head=head))
    expected = original_answers(
        path, ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    )
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    assert np.abs(session.run(images()) - expected).max() < 1e-4
    assert (candidate.classifier is not None) == shown
    assert certainty(candidate, "features")[1] == ("checked" if shown else "missing")
    if shown:
        (tmp_path / "classifier.npz").write_bytes(candidate.classifier or b"")
        with np.load(tmp_path / "classifier.npz") as archive:
            logits, features = session.run_with_features(images())
            assert features.shape[1:] == (archive["weight"].shape[1], SIZE // 2, SIZE // 2)
            assert archive["weight"].shape == (CLASSES, CLASSES if head == "none" else CHANNELS)
            assert (
                np.abs(features.mean((2, 3)) @ archive["weight"].T + archive["bias"] - logits).max()
                < 1e-4
            )


@pytest.mark.parametrize(
    ("reshape", "said"),
    [
        ([-1, 8, 256], "[8, 256] for an image, no map of 8 channels"),
        ([-1, 8, 16, 4, 4], "[8, 16, 4, 4] for an"),
    ],
)
def test_a_pooled_value_that_is_no_map_is_none_for_explanations(
    tmp_path: Path, reshape: list[int], said: str
) -> None:
    """A mean over one axis or over three is no mean over a map."""
    builder = Builder("pixels")
    builder.add(
        "Conv",
        np.random.default_rng(0).normal(0, 0.5, (CHANNELS, 3, 3, 3)),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    builder.add("Reshape", np.array(reshape, np.int64))
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    builder.add(
        "Gemm",
        np.random.default_rng(1).normal(size=(CLASSES, CHANNELS)),
        np.zeros(CLASSES),
        transB=1,
    )
    _, candidate = import_graph(tmp_path, closed(builder, CLASSES))
    assert candidate.classifier is None
    assert said in evidence(candidate, "features")


def test_a_last_layer_that_makes_other_numbers_than_the_classes_is_no_head(tmp_path: Path) -> None:
    """Five numbers, to which five times five are added, laid out as 25 classes."""
    builder = Builder("pixels")
    builder.add(
        "Conv",
        np.random.default_rng(0).normal(0, 0.5, (CHANNELS, 3, 3, 3)),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    )
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    builder.add("Gemm", np.random.default_rng(1).normal(size=(5, CHANNELS)), np.zeros(5), transB=1)
    builder.add("Add", np.random.default_rng(2).normal(size=(5, 5)))
    builder.add("Reshape", np.array([1, 25], np.int64))
    path = write(tmp_path, closed(builder, 25, batch=1))
    candidate = read_onnx(
        path,
        [f"class {number}" for number in range(25)],
        Expectation(preset=IMAGENET, preset_name="preset"),
    )
    assert candidate.classifier is None
    assert "does not make one number a class" in evidence(candidate, "features")


@pytest.mark.parametrize(
    ("end", "head"), [("Softmax", "Gemm"), ("Flatten-Softmax-Reshape", "Conv"), ("Softmax", "Conv")]
)
def test_a_closing_softmax_is_left_out_and_logits_are_served(
    tmp_path: Path, end: str, head: str
) -> None:
    """The served logits' softmax is the file's own output."""
    path, candidate = import_graph(tmp_path, foreign_graph(end=end, head=head))
    expected = original_answers(
        path, ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert candidate.outputs.kind == "logits"
    assert np.abs(softmax(served_answers(candidate, images())) - expected).max() < 1e-5
    assert candidate.classifier is not None


@pytest.mark.parametrize("opset", [13, 18])
def test_a_softmax_in_a_function_of_the_files_own_is_found(tmp_path: Path, opset: int) -> None:
    """Functions are written out before anything is looked for, those of another opset too."""
    model = foreign_graph()
    step = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=1)
    model.functions.append(
        onnx.helper.make_function(
            "own", "to_shares", ["x"], ["y"], [step], [onnx.helper.make_opsetid("", opset)]
        )
    )
    model.opset_import.append(onnx.helper.make_opsetid("own", 1))
    model.graph.node.append(
        onnx.helper.make_node("to_shares", [model.graph.output[0].name], ["shares"], domain="own")
    )
    model.graph.output[0].name = "shares"
    path, candidate = import_graph(tmp_path, model)
    expected = original_answers(
        path, ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert certainty(candidate, "answer") == ("logits", "checked")
    assert np.abs(softmax(served_answers(candidate, images())) - expected).max() < 1e-5


def test_probabilities_that_no_softmax_makes_are_served_as_such(tmp_path: Path) -> None:
    """Found by looking at the numbers, and said in the manifest's outputs."""
    path, candidate = import_graph(tmp_path, foreign_graph(end="normalised by hand"))
    expected = original_answers(
        path, ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert candidate.outputs.kind == "probabilities"
    assert np.abs(served_answers(candidate, images()) - expected).max() < 1e-5


def test_nothing_of_the_machine_that_wrote_the_file_is_sealed(tmp_path: Path) -> None:
    """Comments, metadata, names of programs, graphs, axes and nodes, in a branch of the graph too."""
    model, trace = foreign_graph(end="Identity"), "/home/someone/net.py:3"
    graph, branches = model.graph, [foreign_graph().graph for _ in range(2)]
    for branch in branches:
        del branch.node[:], branch.initializer[:], branch.input[:], branch.output[:]
        branch.name = trace
        branch.node.append(
            onnx.helper.make_node("Identity", [graph.node[-1].input[0]], ["chosen"], trace, trace)
        )
        branch.output.append(
            onnx.helper.make_tensor_value_info("chosen", onnx.TensorProto.FLOAT, None)
        )
    sign = onnx.helper.make_node("ReduceMax", ["pixels"], ["sign"], keepdims=0)
    cast = onnx.helper.make_node("Cast", ["sign"], ["is_any"], to=onnx.TensorProto.BOOL)
    choice = onnx.helper.make_node(
        "If",
        ["is_any"],
        [graph.node[-1].output[0]],
        then_branch=branches[0],
        else_branch=branches[1],
    )
    del graph.node[-1]
    graph.node.extend([sign, cast, choice])
    model.producer_name = model.producer_version = model.domain = model.doc_string = graph.name = (
        graph.doc_string
    ) = trace
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = trace
    for node in graph.node:
        node.name = f"{trace} {node.op_type}"
        node.metadata_props.add(key="trace", value=trace)
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = trace
    model.metadata_props.add(key="trace", value=trace)
    path, candidate = import_graph(tmp_path, model)
    assert b"someone" in path.read_bytes()
    assert b"someone" not in candidate.model
    names = [node.name for node in onnx.load_model_from_string(candidate.model).graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_old_and_new_opsets_answer_alike(tmp_path: Path, opset: int) -> None:
    """Old ones, with weights as inputs and IR version 3, come to ours; newer ones are kept."""
    path, candidate = import_graph(
        tmp_path, foreign_graph(opset=opset, weights_as_inputs=opset < 11, pool="AveragePool")
    )
    expected = original_answers(
        path, ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    )
    assert np.abs(served_answers(candidate, images()) - expected).max() < 1e-4
    model = onnx.load_model_from_string(candidate.model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [
        ("", max(opset, OPSET))
    ]
    assert [value.name for value in model.graph.input] == ["images"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_a_file_that_is_too_old_to_be_run_is_upgraded_and_its_upgrade_called_assumed(
    tmp_path: Path,
) -> None:
    """Nothing computes opset 6, so there is no answer of the file itself to hold the import against."""
    old = foreign_graph(opset=6)
    old.graph.node[-1].attribute.append(onnx.helper.make_attribute("broadcast", 1))
    _, candidate = import_graph(tmp_path, old)
    _, same = import_graph(tmp_path, foreign_graph())
    assert np.abs(served_answers(candidate, images()) - served_answers(same, images())).max() < 1e-5
    assert candidate.report.assumed == ["the upgrade"]


@pytest.mark.parametrize(
    ("batch", "head", "most", "said"),
    [
        ("n", "Gemm", 32, ("free", "checked")),
        (1, "Gemm", 32, ("free", "checked")),
        (1, "Reshape", 32, ("free", "changed")),
        (4, "Reshape", 32, ("free", "changed")),
        (1, "stuck", 1, ("1", "missing")),
    ],
)
def test_a_fixed_batch_is_freed_where_the_graph_allows_it(
    tmp_path: Path, batch: int | str, head: str, most: int, said: tuple[str, str]
) -> None:
    """Else single images alone are served, and the report says so."""
    path, candidate = import_graph(tmp_path, foreign_graph(batch=batch, head=head))
    floats = ((images(8) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    size = batch if isinstance(batch, int) else 1
    session = onnxruntime.InferenceSession(path)
    rows = [
        session.run(None, {"pixels": floats[start : start + size]})[0]
        for start in range(0, 8, size)
    ]
    assert (
        np.abs(served_answers(candidate, images(8)) - np.concatenate(rows).reshape(8, -1)).max()
        < 1e-4
    )
    assert candidate.max_batch_size == most
    assert certainty(candidate, "batch") == said


def test_a_timm_config_says_range_and_geometry(tmp_path: Path) -> None:
    """mean, std, interpolation and crop as timm's own transforms make them: 32 / 0.95 rounds down to 33."""
    config = {
        "pretrained_cfg": {
            "input_size": [3, SIZE, SIZE],
            "interpolation": "bicubic",
            "crop_pct": 0.95,
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
        }
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    preset = read_timm(tmp_path / "config.json")
    path, candidate = import_graph(tmp_path, foreign_graph(), preset)
    floats = (images() / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
    assert (
        np.abs(
            served_answers(candidate, images())
            - original_answers(path, floats.transpose(0, 3, 1, 2).astype(np.float32))
        ).max()
        < 1e-4
    )
    assert (candidate.preprocessing.resize, candidate.preprocessing.interpolation) == (
        33,
        "bicubic",
    )
    assert certainty(candidate, "resize")[1] == "given"


def test_what_nothing_says_is_called_assumed(tmp_path: Path) -> None:
    """A preset that says nothing of the resize, and channels that nobody named."""
    _, candidate = import_graph(tmp_path, foreign_graph(), None, scale=1 / 255)
    assert candidate.report.assumed == ["channels", "resize"]


def test_no_trace_of_the_maker_stays_in_the_file(tmp_path: Path) -> None:
    """Doc strings and metadata may hold paths, and change the digest."""
    model = foreign_graph()
    model.graph.node[0].doc_string = "/home/someone/net.py, line 3"
    model.metadata_props.add(key="source", value="/home/someone")
    model.graph.doc_string = model.doc_string = "/home/someone"
    _, candidate = import_graph(tmp_path, model)
    assert b"someone" not in candidate.model


def test_two_imports_are_the_same_bytes(tmp_path: Path) -> None:
    """So a digest means something."""
    first, second = (
        import_graph(tmp_path, foreign_graph(opset=9, head="Reshape", batch=1))[1] for _ in range(2)
    )
    assert first.model == second.model


def test_a_size_that_the_file_leaves_open_is_asked_for(tmp_path: Path) -> None:
    """And taken from --size."""
    model = foreign_graph()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free_{axis}"
    with pytest.raises(ForeignModelError, match="leaves its size open; say it with --size"):
        import_graph(tmp_path, model)
    _, candidate = import_graph(tmp_path, model, size=(24, 40))
    assert (candidate.input.height, candidate.input.width) == (24, 40)


def test_a_preset_of_a_persons_own_is_like_any_other(tmp_path: Path) -> None:
    """Geometry by flags goes before the preset's."""
    preset = Preset(PixelRange(scale=1 / 255), Geometry(0.5, "shorter_side"), says_geometry=True)
    _, candidate = import_graph(
        tmp_path, foreign_graph(), preset, resize=48, interpolation="lanczos"
    )
    spec = candidate.preprocessing
    assert (spec.resize_mode, spec.resize, spec.interpolation) == ("shorter_side", 48, "lanczos")
