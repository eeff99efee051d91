"""Imported ONNX files return the scores of the original file for the same image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import CHANNELS, CLASSES, LABELS, SIZE, Builder, foreign_graph, model_of, write

from training.errors import ForeignModelError
from training.importing.candidate import ImportCandidate, open_session
from training.importing.import_report import ReportEntry
from training.importing.input_options import InputOptions
from training.importing.input_spec import PixelRange
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS, Geometry, Preset, read_timm
from training.steps.export import OPSET

IMAGENET = PRESETS["torchvision"]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def images(number: int = 6) -> np.ndarray:
    """Noise of several brightnesses, uint8 `[n, SIZE, SIZE, 3]`."""
    random = np.random.default_rng(1)
    return np.stack(
        [
            random.integers(0, 30 * (step + 1), (SIZE, SIZE, 3), dtype=np.uint8)
            for step in range(number)
        ]
    )


def reference_scores(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The file's own output for its own kind of input, one image at a time."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate(
        [session.run(None, {name: image[np.newaxis]})[0].reshape(1, -1) for image in pixels]
    ).astype(np.float32)


def served_scores(candidate: ImportCandidate, pixels: np.ndarray) -> np.ndarray:
    """Scores of the model to seal, in one batch if it takes that."""
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    if candidate.max_batch_size == 1:
        return np.concatenate([session.run(image[np.newaxis]) for image in pixels])
    return session.run(pixels)


def import_graph(
    folder: Path, model: onnx.ModelProto, preset: Preset | None = IMAGENET, **values: Any
) -> tuple[Path, ImportCandidate]:
    path = write(folder, model)
    return path, read_onnx(
        path, LABELS, InputOptions(preset=preset, preset_name="preset", **values)
    )


def imagenet_input() -> np.ndarray:
    """`images()` as float32 NCHW, normalized with ImageNet's mean and std."""
    return ((images() / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)


def entry_of(candidate: ImportCandidate, subject: str) -> ReportEntry:
    (entry,) = [entry for entry in candidate.report.entries if entry.subject == subject]
    return entry


def certainty(candidate: ImportCandidate, subject: str) -> tuple[str, str]:
    entry = entry_of(candidate, subject)
    return entry.value, entry.certainty


def classifier(builder: Builder, classes: int, batch: int | str = "n") -> onnx.ModelProto:
    """The model of a builder from `pixels`, NCHW, to scores."""
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
    ("preset", "to_input"),
    [
        ("torchvision", lambda rgb: (rgb / 255 - MEAN) / STD),
        ("caffe", lambda rgb: rgb[..., ::-1] - np.array([103.939, 116.779, 123.68])),
        ("tf", lambda rgb: rgb / 127.5 - 1),
        ("zero-one", lambda rgb: rgb / 255),
        ("minus-one-one", lambda rgb: rgb / 127.5 - 1),
    ],
)
def test_each_preset_and_layout_matches_the_original(
    tmp_path: Path, layout: str, preset: str, to_input: Any
) -> None:
    """uint8 RGB images give the logits of the file's own range, channel order and layout."""
    scale = 60.0 if preset == "caffe" else 1.0
    path, candidate = import_graph(
        tmp_path, foreign_graph(layout=layout, scale=scale), PRESETS[preset]
    )
    floats = to_input(images().astype(np.float64))
    expected = reference_scores(
        path, (floats.transpose(0, 3, 1, 2) if layout == "NCHW" else floats).astype(np.float32)
    )
    assert np.ptp(expected, axis=0).max() > 0.5, "equal scores prove nothing"
    assert np.abs(served_scores(candidate, images()) - expected).max() < 1e-4
    assert certainty(candidate, "layout") == (layout, "found")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_uint8_network_gets_bytes(tmp_path: Path, layout: str, channels: str) -> None:
    """The channels are swapped for BGR."""
    path, candidate = import_graph(
        tmp_path, foreign_graph(layout=layout, dtype="uint8", scale=60.0), None, channels=channels
    )
    pixels = images() if channels == "RGB" else images()[..., ::-1]
    expected = reference_scores(
        path, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if layout == "NCHW" else pixels)
    )
    assert np.abs(served_scores(candidate, images()) - expected).max() < 1e-4
    assert certainty(candidate, "range") == ("0 to 255", "found")


def test_flags_override_the_preset(tmp_path: Path) -> None:
    """--mean and --std are in the network's channel order."""
    values = {
        "scale": 1 / 128,
        "mean": (0.5, 0.25, 0.125),
        "std": (0.5, 1.0, 2.0),
        "channels": "BGR",
    }
    path, candidate = import_graph(tmp_path, foreign_graph(), IMAGENET, **values)
    floats = (images()[..., ::-1] / 128 - np.array(values["mean"])) / np.array(values["std"])
    expected = reference_scores(path, floats.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.abs(served_scores(candidate, images()) - expected).max() < 1e-4


def test_a_float16_network_returns_float32(tmp_path: Path) -> None:
    path, candidate = import_graph(tmp_path, foreign_graph(dtype="float16"), PRESETS["zero-one"])
    expected = reference_scores(path, (images() / 255).transpose(0, 3, 1, 2).astype(np.float16))
    scores = served_scores(candidate, images())
    assert scores.dtype == np.float32
    assert np.abs(scores - expected).max() < 2e-2


@pytest.mark.parametrize(
    ("pool", "head", "has_features"),
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
def test_a_pooled_linear_head_is_found_and_checked_by_numbers(
    tmp_path: Path, pool: str, head: str, *, has_features: bool
) -> None:
    """Only then does the version have features and an embedding, of which the same is true."""
    path, candidate = import_graph(tmp_path, foreign_graph(pool=pool, head=head))
    expected = reference_scores(path, imagenet_input())
    session = open_session(candidate.model, candidate.input, candidate.outputs)
    assert np.abs(session.run(images()) - expected).max() < 1e-4
    assert (candidate.classifier is not None) == has_features
    assert certainty(candidate, "features")[1] == ("checked" if has_features else "missing")
    assert (session.embedding_dims is not None) == has_features
    if has_features:
        (tmp_path / "classifier.npz").write_bytes(candidate.classifier or b"")
        with np.load(tmp_path / "classifier.npz") as archive:
            logits, features = session.run_with_features(images())
            assert features.shape[1:] == (archive["weight"].shape[1], SIZE // 2, SIZE // 2)
            assert archive["weight"].shape == (CLASSES, CLASSES if head == "none" else CHANNELS)
            _, embeddings = session.run_with_embedding(images())
            assert embeddings.shape[1:] == (session.embedding_dims,)
            for pooled in (features.mean((2, 3)), embeddings):
                recomputed = pooled @ archive["weight"].T + archive["bias"]
                assert np.abs(recomputed - logits).max() < 1e-4


@pytest.mark.parametrize(
    ("reshape", "shape"), [([-1, 8, 256], "8, 256]"), ([-1, 8, 16, 4, 4], "8, 16, 4, 4]")]
)
def test_a_pooled_value_without_two_spatial_axes_is_not_a_feature_map(
    tmp_path: Path, reshape: list[int], shape: str
) -> None:
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
    _, candidate = import_graph(tmp_path, classifier(builder, CLASSES))
    assert candidate.classifier is None
    assert shape in entry_of(candidate, "features").evidence


def test_a_last_layer_without_one_number_per_class_is_not_a_head(tmp_path: Path) -> None:
    """Five numbers are broadcast to 5 x 5 and reshaped to 25 classes."""
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
    path = write(tmp_path, classifier(builder, 25, batch=1))
    candidate = read_onnx(
        path,
        [f"class {number}" for number in range(25)],
        InputOptions(preset=IMAGENET, preset_name="preset"),
    )
    assert candidate.classifier is None
    assert "Gemm" in entry_of(candidate, "features").evidence


@pytest.mark.parametrize(
    ("end", "head"), [("Softmax", "Gemm"), ("Flatten-Softmax-Reshape", "Conv"), ("Softmax", "Conv")]
)
def test_the_input_of_a_final_softmax_is_served(tmp_path: Path, end: str, head: str) -> None:
    """Softmax of the served logits is the file's own output."""
    path, candidate = import_graph(tmp_path, foreign_graph(end=end, head=head))
    expected = reference_scores(path, imagenet_input())
    assert candidate.outputs.kind == "logits"
    assert np.abs(softmax(served_scores(candidate, images())) - expected).max() < 1e-5
    assert candidate.classifier is not None


@pytest.mark.parametrize("opset", [13, 18])
def test_a_softmax_in_a_local_function_is_found(tmp_path: Path, opset: int) -> None:
    """Local functions are inlined first, also those of another opset."""
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
    expected = reference_scores(path, imagenet_input())
    assert certainty(candidate, "answer") == ("logits", "checked")
    assert np.abs(softmax(served_scores(candidate, images())) - expected).max() < 1e-5


def test_probabilities_without_a_softmax_are_served_as_probabilities(tmp_path: Path) -> None:
    """They are recognised by their numbers."""
    path, candidate = import_graph(tmp_path, foreign_graph(end="normalised by hand"))
    expected = reference_scores(path, imagenet_input())
    assert candidate.outputs.kind == "probabilities"
    assert np.abs(served_scores(candidate, images()) - expected).max() < 1e-5


def test_no_trace_of_the_author_is_sealed(tmp_path: Path) -> None:
    """Doc strings, metadata, and names of nodes, graphs and axes, also in branches."""
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
def test_old_and_new_opsets_return_the_original_scores(tmp_path: Path, opset: int) -> None:
    """Older opsets, with weights as inputs and IR version 3, are upgraded; newer ones are kept."""
    path, candidate = import_graph(
        tmp_path, foreign_graph(opset=opset, weights_as_inputs=opset < 11, pool="AveragePool")
    )
    expected = reference_scores(path, imagenet_input())
    assert np.abs(served_scores(candidate, images()) - expected).max() < 1e-4
    model = onnx.load_model_from_string(candidate.model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [
        ("", max(opset, OPSET))
    ]
    assert [value.name for value in model.graph.input] == ["images"]
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)


def test_the_upgrade_of_a_file_that_cannot_run_is_assumed(
    tmp_path: Path,
) -> None:
    """ONNX Runtime does not run opset 6, so the file has no scores of its own."""
    old = foreign_graph(opset=6)
    old.graph.node[-1].attribute.append(onnx.helper.make_attribute("broadcast", 1))
    _, candidate = import_graph(tmp_path, old)
    _, same = import_graph(tmp_path, foreign_graph())
    assert np.abs(served_scores(candidate, images()) - served_scores(same, images())).max() < 1e-5
    assert candidate.report.assumed == ["the upgrade"]


@pytest.mark.parametrize(
    ("batch", "head", "max_batch_size", "entry"),
    [
        ("n", "Gemm", 32, ("free", "checked")),
        (1, "Gemm", 32, ("free", "checked")),
        (1, "Reshape", 32, ("free", "changed")),
        (4, "Reshape", 32, ("free", "changed")),
        (1, "stuck", 1, ("1", "missing")),
    ],
)
def test_a_fixed_batch_is_freed_if_the_graph_allows_it(
    tmp_path: Path, batch: int | str, head: str, max_batch_size: int, entry: tuple[str, str]
) -> None:
    """Otherwise the maximum batch size is 1, and the report states it."""
    path, candidate = import_graph(tmp_path, foreign_graph(batch=batch, head=head))
    floats = ((images(8) / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    size = batch if isinstance(batch, int) else 1
    session = onnxruntime.InferenceSession(path)
    rows = [
        session.run(None, {"pixels": floats[start : start + size]})[0]
        for start in range(0, 8, size)
    ]
    assert (
        np.abs(served_scores(candidate, images(8)) - np.concatenate(rows).reshape(8, -1)).max()
        < 1e-4
    )
    assert candidate.max_batch_size == max_batch_size
    assert certainty(candidate, "batch") == entry


def test_a_timm_config_states_range_and_geometry(tmp_path: Path) -> None:
    """As in timm's transforms: 32 / 0.95 rounds down to a shorter side of 33 pixels."""
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
            served_scores(candidate, images())
            - reference_scores(path, floats.transpose(0, 3, 1, 2).astype(np.float32))
        ).max()
        < 1e-4
    )
    assert (candidate.preprocessing.resize, candidate.preprocessing.interpolation) == (
        33,
        "bicubic",
    )
    assert certainty(candidate, "resize")[1] == "given"


def test_what_is_not_stated_is_reported_as_assumed(tmp_path: Path) -> None:
    """Here: the channel order and the resize."""
    _, candidate = import_graph(tmp_path, foreign_graph(), None, scale=1 / 255)
    assert candidate.report.assumed == ["channels", "resize"]


def test_two_imports_of_a_file_have_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        import_graph(tmp_path, foreign_graph(opset=9, head="Reshape", batch=1))[1] for _ in range(2)
    )
    assert first.model == second.model


def test_a_size_that_the_file_does_not_state_is_required(tmp_path: Path) -> None:
    model = foreign_graph()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free_{axis}"
    with pytest.raises(ForeignModelError, match="--size"):
        import_graph(tmp_path, model)
    _, candidate = import_graph(tmp_path, model, size=(24, 40))
    assert (candidate.input.height, candidate.input.width) == (24, 40)


def test_resize_flags_override_the_preset(tmp_path: Path) -> None:
    preset = Preset(PixelRange(scale=1 / 255), Geometry(0.5, "shorter_side"), states_geometry=True)
    _, candidate = import_graph(
        tmp_path, foreign_graph(), preset, resize=(48, 48), interpolation="lanczos"
    )
    preprocessing = candidate.preprocessing
    assert (preprocessing.resize_mode, preprocessing.resize, preprocessing.interpolation) == (
        "shorter_side",
        48,
        "lanczos",
    )
