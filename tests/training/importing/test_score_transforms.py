"""What follows a network's last real step: percent and clips are looked through, and what is no distribution is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import CLASSES, LABELS, SIZE, foreign_graph, write
from onnx import TensorProto, helper, numpy_helper

from training.errors import ForeignModelError
from training.importing.candidate import Candidate, open_session
from training.importing.input_options import Expectation
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS

Ending = tuple[str, Any]
PRIORS = np.linspace(0.5, 1.5, CLASSES)


def closed(*endings: Ending, opset: int = 13, **values: Any) -> onnx.ModelProto:
    """The graph, and after it each operator with its constants: numbers, or attributes as a dictionary."""
    model = foreign_graph(opset=opset, **values)
    graph = model.graph
    value = graph.output[0].name
    for number, (operator, given) in enumerate(endings):
        attributes = given if isinstance(given, dict) else {}
        constants = (
            []
            if isinstance(given, dict)
            else [np.asarray(numbers, np.float32) for numbers in given]
        )
        names = [f"closing_{number}_{place}" for place in range(len(constants))]
        graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for array, name in zip(constants, names, strict=True)
        )
        graph.node.append(
            helper.make_node(operator, [value, *names], [f"closed_{number}"], **attributes)
        )
        value = f"closed_{number}"
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, ["n", CLASSES]))
    return model


def read(folder: Path, model: onnx.ModelProto) -> Candidate:
    """The import of a graph that takes 0 to 1."""
    return read_onnx(
        write(folder, model),
        LABELS,
        Expectation(preset=PRESETS["zero-one"], preset_name="zero-one"),
    )


SOFTMAX = ("Softmax", {"axis": 1})


@pytest.mark.parametrize(
    ("endings", "opset"),
    [
        ([SOFTMAX, ("Mul", [100.0])], 13),
        ([SOFTMAX, ("Div", [[[0.01]]]), ("Sub", [50.0])], 13),
        ([SOFTMAX, ("Clip", [1e-7, 1 - 1e-7])], 13),
        ([SOFTMAX, ("Clip", {"min": 1e-7, "max": 0.9})], 9),
        ([SOFTMAX, ("Max", [0.3]), ("Identity", {}), ("Add", [1.0])], 13),
        ([SOFTMAX, ("Mul", [-100.0]), ("Mul", [-1.0])], 13),
    ],
)
def test_scaled_and_clipped_probabilities_are_served_as_the_logits_before(
    tmp_path: Path, endings: list[Ending], opset: int
) -> None:
    """As where the graph ends before its Softmax: percent is no row of logits."""
    candidate = read(tmp_path, closed(*endings, opset=opset))
    (finding,) = [finding for finding in candidate.report.findings if finding.subject == "answer"]
    assert (finding.value, finding.certainty) == ("logits", "checked")
    pixels = np.random.default_rng(1).integers(0, 255, (4, SIZE, SIZE, 3), dtype=np.uint8)
    bare = onnxruntime.InferenceSession(write(tmp_path, foreign_graph(opset=opset), "bare.onnx"))
    (expected,) = bare.run(
        None, {"pixels": (pixels / 255).transpose(0, 3, 1, 2).astype(np.float32)}
    )
    found = open_session(candidate.model, candidate.input, candidate.outputs).run(pixels)
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(
    ("endings", "message"),
    [
        ([("Sigmoid", {}), ("Clip", [1e-4, 1 - 1e-4])], r"ends in a Sigmoid \(then Clip\)"),
        ([("Sigmoid", {}), ("Mul", [100.0])], r"ends in a Sigmoid \(then Mul\)"),
        ([("HardSigmoid", {})], "ends in a Sigmoid:"),
        (
            [SOFTMAX, ("Mul", [-1.0])],
            r"what follows the closing Softmax \(Mul\) changes which class comes first",
        ),
        (
            [SOFTMAX, ("Mul", [PRIORS])],
            r"what follows the closing Softmax \(Mul\) changes which class comes first",
        ),
        (
            [("Softmax", {"axis": 0}), ("Mul", [100.0])],
            "closes with a Softmax and Mul, but its scores are not so made",
        ),
        ([("Tanh", {}), ("Abs", {})], "all scores lie between 0 and 1 and do not sum to 1"),
    ],
)
def test_what_is_no_distribution_is_refused(
    tmp_path: Path, endings: list[Ending], message: str
) -> None:
    """Taken for logits, the shares of such scores would be nearly even."""
    with pytest.raises(ForeignModelError, match=message):
        read(tmp_path, closed(*endings))


def test_percent_that_no_softmax_makes_is_refused(tmp_path: Path) -> None:
    """Rows that sum to the same are shares, and there is nothing before a Softmax to serve."""
    with pytest.raises(ForeignModelError, match="the scores sum to 100 on every probe"):
        read(tmp_path, closed(("Mul", [100.0]), end="normalised by hand"))


def test_logits_that_sum_to_zero_are_logits(tmp_path: Path) -> None:
    """A last layer that was trained from zeros, or long with weight decay, makes no others."""
    centred = np.eye(CLASSES) - 1 / CLASSES
    candidate = read(tmp_path, closed(("MatMul", [centred])))
    assert candidate.outputs.kind == "logits"


def test_a_graph_that_goes_in_circles_is_refused(tmp_path: Path) -> None:
    """And is not walked for ever."""
    model = closed(("Mul", [2.0]), ("Mul", [0.5]))
    model.graph.node[-2].input[0] = model.graph.node[-1].output[0]
    with pytest.raises(ForeignModelError):
        read(tmp_path, model)
