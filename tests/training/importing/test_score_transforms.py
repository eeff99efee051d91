"""Steps after the last layer: scaled probabilities are undone, other scores are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import CLASSES, LABELS, SIZE, foreign_graph, write
from onnx import TensorProto, helper, numpy_helper

from training.errors import ForeignModelError
from training.importing.candidate import ImportCandidate, open_session
from training.importing.graph_walk import GraphWalker
from training.importing.input_options import InputOptions
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS
from training.importing.score_transforms import (
    ScoreTransform,
    ScoreTransforms,
    find_score_transforms,
)

Step = tuple[str, Any]
PRIORS = np.linspace(0.5, 1.5, CLASSES)


def with_steps(*steps: Step, opset: int = 13, **values: Any) -> onnx.ModelProto:
    """The graph followed by operators, each with its constants or a dictionary of attributes."""
    model = foreign_graph(opset=opset, **values)
    graph = model.graph
    value = graph.output[0].name
    for number, (operator, given) in enumerate(steps):
        attributes = given if isinstance(given, dict) else {}
        constants = (
            []
            if isinstance(given, dict)
            else [np.asarray(numbers, np.float32) for numbers in given]
        )
        names = [f"step_{number}_{place}" for place in range(len(constants))]
        graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
        )
        graph.node.append(
            helper.make_node(operator, [value, *names], [f"step_{number}"], **attributes)
        )
        value = f"step_{number}"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", CLASSES]))
    return model


def read(folder: Path, model: onnx.ModelProto) -> ImportCandidate:
    return read_onnx(
        write(folder, model),
        LABELS,
        InputOptions(preset=PRESETS["zero-one"], preset_name="zero-one"),
    )


SOFTMAX = ("Softmax", {"axis": 1})


@pytest.mark.parametrize(
    ("steps", "opset"),
    [
        ([SOFTMAX, ("Mul", [100.0])], 13),
        ([SOFTMAX, ("Div", [[[0.01]]]), ("Sub", [50.0])], 13),
        ([SOFTMAX, ("Clip", [1e-7, 1 - 1e-7])], 13),
        ([SOFTMAX, ("Clip", {"min": 1e-7, "max": 0.9})], 9),
        ([SOFTMAX, ("Max", [0.3]), ("Identity", {}), ("Add", [1.0])], 13),
        ([SOFTMAX, ("Mul", [-100.0]), ("Mul", [-1.0])], 13),
    ],
)
def test_logits_are_served_in_place_of_scaled_probabilities(
    tmp_path: Path, steps: list[Step], opset: int
) -> None:
    """Percentages or clipped probabilities must not be taken for logits."""
    candidate = read(tmp_path, with_steps(*steps, opset=opset))
    (entry,) = [entry for entry in candidate.report.entries if entry.subject == "answer"]
    assert (entry.value, entry.certainty) == ("logits", "checked")
    pixels = np.random.default_rng(1).integers(0, 255, (4, SIZE, SIZE, 3), dtype=np.uint8)
    bare = onnxruntime.InferenceSession(write(tmp_path, foreign_graph(opset=opset), "bare.onnx"))
    (expected,) = bare.run(
        None, {"pixels": (pixels / 255).transpose(0, 3, 1, 2).astype(np.float32)}
    )
    scores = open_session(candidate.model, candidate.input, candidate.outputs).run(pixels)
    assert np.abs(scores - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("Sigmoid", {}), ("Clip", [1e-4, 1 - 1e-4])], r"Sigmoid \(then Clip\)"),
        ([("Sigmoid", {}), ("Mul", [100.0])], r"Sigmoid \(then Mul\)"),
        ([("HardSigmoid", {})], "Sigmoid:"),
        ([SOFTMAX, ("Mul", [-1.0])], r"Softmax \(Mul\)"),
        ([SOFTMAX, ("Mul", [PRIORS])], r"Softmax \(Mul\)"),
        ([("Softmax", {"axis": 0}), ("Mul", [100.0])], "Softmax, then Mul"),
        ([("Tanh", {}), ("Abs", {})], "between 0 and 1"),
    ],
)
def test_scores_that_are_not_one_distribution_are_refused(
    tmp_path: Path, steps: list[Step], message: str
) -> None:
    """Served as logits, they would give nearly uniform probabilities."""
    with pytest.raises(ForeignModelError, match=message):
        read(tmp_path, with_steps(*steps))


@pytest.mark.parametrize(
    ("steps", "preserves"),
    [
        ([("Mul", 2.0), ("Sub", 1.0)], True),
        ([("Mul", -2.0)], False),
        ([("Min", 0.0)], False),
        ([("Div", -1.0), ("Mul", -1.0)], True),
        ([("Add", PRIORS)], False),
    ],
)
def test_steps_preserve_the_order_of_scores(
    steps: list[tuple[str, Any]], *, preserves: bool
) -> None:
    """A constant result has no order, and constants per class may change it."""
    transforms = tuple(ScoreTransform(name, (np.asarray(value),)) for name, value in steps)
    assert ScoreTransforms(None, transforms).preserves_order == preserves


def test_a_constant_minus_the_scores_is_not_a_step() -> None:
    model = with_steps(("Sub", [1.0]))
    model.graph.node[-1].input[:] = model.graph.node[-1].input[::-1]
    found = find_score_transforms(GraphWalker(model.graph), model.graph.output[0].name)
    assert found.node is not None
    assert (found.node.op_type, found.steps) == ("Sub", ())


def test_percentages_without_a_softmax_are_refused(tmp_path: Path) -> None:
    """There is no input of a Softmax that could be served."""
    with pytest.raises(ForeignModelError, match="sum to 100 "):
        read(tmp_path, with_steps(("Mul", [100.0]), end="normalised by hand"))


def test_logits_that_sum_to_zero_are_logits(tmp_path: Path) -> None:
    """A last layer trained from zeros, or with weight decay alone, returns such rows."""
    centred = np.eye(CLASSES) - 1 / CLASSES
    candidate = read(tmp_path, with_steps(("MatMul", [centred])))
    assert candidate.outputs.kind == "logits"


def test_a_graph_with_a_cycle_is_refused(tmp_path: Path) -> None:
    model = with_steps(("Mul", [2.0]), ("Mul", [0.5]))
    model.graph.node[-2].input[0] = model.graph.node[-1].output[0]
    with pytest.raises(ForeignModelError):
        read(tmp_path, model)
