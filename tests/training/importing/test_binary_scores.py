"""Two-class networks with one Sigmoid get a score per label."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from foreign_graphs import SIZE, Builder, model_of, write
from onnx import TensorProto, helper

from model_store.session import probabilities
from training.errors import ForeignModelError
from training.importing.candidate import ImportCandidate, open_session
from training.importing.input_options import InputOptions
from training.importing.onnx_network import read_onnx
from training.importing.presets import PRESETS
from training.importing.verification import verify

LABELS = ("cat", "dog")
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
IMAGES[1] //= 2
IMAGES[2] //= 5


def graph(end: str, shape: list[int | str]) -> onnx.ModelProto:
    """A network with one output of this shape, after the operator `end`."""
    random = np.random.default_rng(1)
    builder = Builder("pixels")
    builder.add("Conv", random.normal(0, 0.5, (8, 3, 3, 3)))
    builder.add("Relu")
    builder.add("GlobalAveragePool")
    builder.add("Flatten", axis=1)
    builder.add("Gemm", random.normal(0, 4, (1, 8)), np.zeros(1), transB=1)
    if end:
        builder.add(end)
    if len(shape) == 1:
        builder.add("Reshape", np.array([-1], np.int64))
    if len(shape) == 4:
        builder.add("Reshape", np.array([-1, 1, 1, 1], np.int64))
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])
    scores = helper.make_tensor_value_info(builder.value, TensorProto.FLOAT, shape)
    return model_of(builder, [pixels], [scores])


def read(
    path: Path, labels: tuple[str, ...] = LABELS, output: str | None = None
) -> ImportCandidate:
    options = InputOptions(preset=PRESETS["zero-one"], preset_name="zero-one", output=output)
    return read_onnx(path, labels, options)


@pytest.mark.parametrize("shape", [["n", 1], ["n"], ["n", 1, 1, 1]])
@pytest.mark.parametrize("requested", [True, False])
def test_one_sigmoid_becomes_two_scores(
    tmp_path: Path, shape: list[int | str], *, requested: bool
) -> None:
    """The file's value is the score of the second label, and the first gets the rest to 1."""
    model = graph("Sigmoid", shape)
    path = write(tmp_path, model)
    candidate = read(path, output=model.graph.output[0].name if requested else None)
    values = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    session = onnxruntime.InferenceSession(path)
    expected = session.run(None, {"pixels": values})[0].reshape(-1)
    assert np.ptp(expected) > 0.05, "equal scores prove nothing"
    logits = open_session(candidate.model, candidate.input, candidate.outputs).run(IMAGES)
    scores = probabilities(logits, candidate.outputs)
    assert np.abs(scores - np.stack([1 - expected, expected], axis=1)).max() < 1e-5
    assert candidate.max_batch_size == 32
    assert all(check.passed for check in verify(candidate, None, 0).checks)
    (entry,) = [entry for entry in candidate.report.entries if entry.subject == "scores"]
    assert entry.certainty == "changed"


@pytest.mark.parametrize(
    ("end", "labels"), [("", LABELS), ("Tanh", LABELS), ("Sigmoid", ("a", "b", "c"))]
)
def test_other_single_outputs_are_refused(
    tmp_path: Path, end: str, labels: tuple[str, ...]
) -> None:
    path = write(tmp_path, graph(end, ["n", 1]))
    with pytest.raises(ForeignModelError, match=rf"returns 1 scores.* {len(labels)} labels"):
        read(path, labels)
