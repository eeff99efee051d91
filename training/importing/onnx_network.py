"""Turns an ONNX file into an import candidate."""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy.special import softmax

from model_store.preprocessing import Pixels
from model_store.provenance import Imported
from model_store.session import Logits
from training.errors import ForeignModelError
from training.importing.binary_scores import split_sigmoid
from training.importing.candidate import ImportCandidate, input_size_of
from training.importing.foreign_file import TensorInfo, read_foreign_file
from training.importing.head import PooledHead, ScoreOutput, choose_output, find_score_output
from training.importing.import_report import IMPORT_REPORT, ImportReport
from training.importing.input_options import (
    InputOptions,
    alternative_specs,
    find_input_spec,
    find_preprocessing,
    other_geometries,
)
from training.importing.input_spec import InputSpec
from training.importing.labels import class_count_error, name_classes
from training.importing.probes import make_probes, require_finite, score_spread
from training.importing.reference_model import ReferenceModel
from training.importing.served_graph import ServedGraphBuilder
from training.quantization.graph import reduced_precision

PROBABILITY_TOLERANCE: Final = 1e-3


def read_onnx(path: Path, labels: Sequence[str], options: InputOptions) -> ImportCandidate:
    """Read an ONNX classifier and build the graph to serve.

    Raises ForeignModelError if the file is not a classifier for these labels, or if it cannot be
    adapted to the serving contract.
    """
    report = ImportReport(path.name)
    file = read_foreign_file(path)
    class_names = name_classes(labels, report)
    file, requested = split_sigmoid(file, class_names, options.output, report)
    output = choose_output(file, class_names, requested, report).name
    input_spec = find_input_spec(file, options, report)
    preprocessing = find_preprocessing(
        _size_in_file(file.input, input_spec), f"the input {file.input}", options, report
    )
    score_output = find_score_output(file.proto.graph, output)
    reference = ReferenceModel(file, score_output, report)
    probes = make_probes(input_size_of(preprocessing))
    expected, scores = reference.run(probes, input_spec)
    require_finite(expected)
    if expected.shape[1] != len(class_names):
        raise class_count_error(path, expected.shape[1], class_names)
    kind = _classify_scores(score_output, expected, scores, report)
    builder = ServedGraphBuilder(file, output, input_spec, preprocessing, probes, expected, kind)
    network, max_batch_size = builder.prepare_network(report)
    if precision := reduced_precision(file.proto):
        evidence = "the version computes in float32"
        if reduced_precision(network):
            evidence = "the version computes like the file; `quantize` cannot convert it"
        report.add("precision", precision, "found", evidence)
    head, identity_error = builder.find_head(network, report) or (None, None)
    model, outputs = builder.build(network, head)
    return ImportCandidate(
        model=model,
        outputs=outputs,
        preprocessing=preprocessing,
        class_names=class_names,
        max_batch_size=max_batch_size,
        reference=partial(_scores, reference, input_spec),
        imported=Imported(kind="onnx", name=path.name, sha256=file.sha256(), report=IMPORT_REPORT),
        report=report,
        classifier=None if head is None else _classifier_bytes(head),
        identity_error=identity_error,
        alternatives={
            name: partial(_scores, reference, spec)
            for name, spec in alternative_specs(input_spec).items()
        },
        geometries=other_geometries(preprocessing, options),
    )


def _scores(reference: ReferenceModel, input_spec: InputSpec, pixels: Pixels) -> Logits:
    return reference.run(pixels, input_spec)[0]


def _size_in_file(tensor: TensorInfo, input_spec: InputSpec) -> tuple[int | None, int | None]:
    height, width = (2, 3) if input_spec.layout == "NCHW" else (1, 2)
    return (tensor.shape[height], tensor.shape[width]) if tensor.shape else (None, None)


def _classify_scores(
    score_output: ScoreOutput, logits: Logits, scores: Logits, report: ImportReport
) -> Literal["logits", "probabilities"]:
    """Decide from the graph and the scores whether the version serves logits or probabilities.

    Args:
        logits: The values before a final Softmax; the same as `scores` if there is none.
        scores: The file's own output, `[n, classes]`.

    Raises:
        ForeignModelError: If they are neither logits nor one distribution over all classes.
    """
    sums = scores.sum(axis=1)
    sum_error = float(np.abs(sums - 1).max())
    if score_output.before_softmax:
        _check_softmax(score_output, logits, scores, report)
        return "logits"
    # Rows of logits can also have a constant sum (0 after weight decay alone), so only
    # non-negative scores can be probabilities.
    if score_spread(scores) > 0 and scores.min() >= 0:
        if sum_error <= PROBABILITY_TOLERANCE:
            evidence = "the graph has no final Softmax, and the scores sum to 1 on every probe"
            report.add("answer", "probabilities", "checked", evidence)
            return "probabilities"
        if np.ptp(sums) <= PROBABILITY_TOLERANCE * sums.max():
            raise ForeignModelError(
                f"the scores sum to {sums.mean():.4g} on every probe, expected logits or "
                "probabilities that sum to 1; export the network without the step that scales them"
            )
        if scores.max() <= 1:
            raise ForeignModelError(
                "all scores are between 0 and 1 and do not sum to 1, as if each class was scored "
                "independently, and one distribution over all classes was expected; export the "
                "network without its last activation if it has one label per image"
            )
    evidence = (
        f"the graph has no final Softmax, and the sums of scores are off 1 by {sum_error:.3g}"
    )
    report.add("answer", "logits", "checked", evidence)
    return "logits"


def _check_softmax(
    score_output: ScoreOutput, logits: Logits, scores: Logits, report: ImportReport
) -> None:
    """Check that the Softmax over classes, and the steps after it, turn the logits into scores."""
    transforms = score_output.transforms
    error = float(np.abs(transforms.apply(softmax(logits, axis=1)) - scores).max())
    then = f", then {transforms}" if transforms.steps else ""
    if not error <= PROBABILITY_TOLERANCE * max(1.0, float(np.abs(scores).max())):
        raise ForeignModelError(
            f"the network ends in a Softmax{then}, but its scores differ by {error:.3g} from a "
            "softmax over the classes; export it with a Softmax over the class axis or without one"
        )
    report.add(
        "answer",
        "logits",
        "checked",
        f"the input of the final Softmax ({score_output.before_softmax}); softmax{then} returns "
        f"the file's scores within {error:.2g}",
    )


def _classifier_bytes(head: PooledHead) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=head.weight, bias=head.bias)
    return buffer.getvalue()
