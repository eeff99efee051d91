"""From a foreign ONNX file to a candidate: what is looked for, in which order, and how each guess is checked by numbers."""

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
from training.importing.candidate import Candidate, input_of
from training.importing.foreign_file import Value, read_foreign
from training.importing.head import Answer, PooledHead, choose_output, find_answer
from training.importing.import_report import REPORT, ImportReport
from training.importing.input_options import (
    Expectation,
    find_convention,
    find_geometry,
    other_readings,
)
from training.importing.input_spec import Convention
from training.importing.labels import name_classes, wrong_classes
from training.importing.probes import make_probes, require_finite, spread_of
from training.importing.reference_model import OriginalFile
from training.importing.served_graph import ServedGraph

SUM_TOLERANCE: Final = 1e-3


def read_onnx(path: Path, labels: Sequence[str], expectation: Expectation) -> Candidate:
    """Bring the file under the contract. Raises ForeignModelError that says what is in the way."""
    report = ImportReport(path.name)
    file = read_foreign(path)
    class_names = name_classes(labels, report)
    output = choose_output(file, class_names, expectation.output, report).name
    convention = find_convention(file, expectation, report)
    spec = find_geometry(
        _sizes_of(file.input, convention), f"the input {file.input}", expectation, report
    )
    answer = find_answer(file.proto.graph, output)
    original = OriginalFile(file, answer, report)
    probes = make_probes(input_of(spec))
    expected, scores = original.run(probes, convention)
    require_finite(expected)
    if expected.shape[1] != len(class_names):
        raise wrong_classes(path, expected.shape[1], class_names)
    kind = _kind_of(answer, expected, scores, report)
    served = ServedGraph(file, output, convention, spec, probes, expected, kind)
    network, max_batch_size = served.find_network(report)
    head, identity_error = served.find_head(network, report) or (None, None)
    model, outputs = served.assemble(network, head)
    return Candidate(
        model=model,
        outputs=outputs,
        preprocessing=spec,
        class_names=class_names,
        max_batch_size=max_batch_size,
        original=partial(_answers, original, convention),
        imported=Imported(kind="onnx", name=path.name, sha256=file.sha256(), report=REPORT),
        report=report,
        classifier=None if head is None else _classifier_bytes(head),
        identity_error=identity_error,
        other_readings={
            name: partial(_answers, original, other)
            for name, other in other_readings(convention).items()
        },
    )


def _answers(original: OriginalFile, convention: Convention, pixels: Pixels) -> Logits:
    return original.run(pixels, convention)[0]


def _sizes_of(value: Value, convention: Convention) -> tuple[int | None, int | None]:
    """Height and width as the file has them."""
    height, width = (2, 3) if convention.layout == "NCHW" else (1, 2)
    return (value.shape[height], value.shape[width]) if value.shape else (None, None)


def _kind_of(
    answer: Answer, logits: Logits, scores: Logits, report: ImportReport
) -> Literal["logits", "probabilities"]:
    """What the served scores are, by the graph and by numbers: `scores` are the file's own output, `logits` before its Softmax.

    Raises ForeignModelError where they are neither logits nor one distribution over all classes.
    """
    sums = scores.sum(axis=1)
    off = float(np.abs(sums - 1).max())
    if answer.before_softmax:
        drift = float(np.abs(answer.closing.apply(softmax(logits, axis=1)) - scores).max())
        if not drift <= SUM_TOLERANCE * max(1.0, float(np.abs(scores).max())):
            raise ForeignModelError(
                f"the network closes with a Softmax, but its scores do not sum to 1 (off by {off:.3g})"
                if not answer.closing.steps
                else f"the network closes with a Softmax and {answer.closing}, but its scores are not so made (off by {drift:.3g})"
            )
        then = f" and {answer.closing}" if answer.closing.steps else ""
        evidence = f"before the closing Softmax{then} ({answer.before_softmax}), which makes the scores of them within {drift:.2g}"
        report.add("answer", "logits", "checked", evidence)
        return "logits"
    differs = spread_of(scores) > 0
    if differs and scores.min() >= 0 and off <= SUM_TOLERANCE:
        report.add(
            "answer",
            "probabilities",
            "checked",
            "no Softmax closes the graph, and the scores sum to 1 on every probe",
        )
        return "probabilities"
    # of negative ones a constant sum says nothing: a last layer trained with weight decay alone comes to rows that sum to 0
    if differs and scores.min() >= 0 and np.ptp(sums) <= SUM_TOLERANCE * sums.max():
        raise ForeignModelError(
            f"the scores sum to {sums.mean():.4g} on every probe, so they are shares of that, and no Softmax makes them; "
            "export the network without what brings them there"
        )
    if differs and scores.min() >= 0 and scores.max() <= 1:
        raise ForeignModelError(
            "all scores lie between 0 and 1 and do not sum to 1, as where a network says yes or no to each class by itself, "
            "and only one distribution over all classes is served; export the network without what brings them there"
        )
    report.add(
        "answer",
        "logits",
        "checked",
        f"no Softmax closes the graph, and the scores do not sum to 1 (off by {off:.3g})",
    )
    return "logits"


def _classifier_bytes(head: PooledHead) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weight=head.weight, bias=head.bias)
    return buffer.getvalue()
