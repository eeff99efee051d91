"""From torchvision's weights, or a file of weights under its names, to a candidate: exported as our own networks are."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from onnx import TensorProto
from torch import Tensor

from model_store.files import sha256_of
from model_store.preprocessing import Pixels
from model_store.provenance import Imported
from model_store.session import Logits
from training.errors import ForeignModelError
from training.gates.gate import EXPORT_MAX_BATCH_SIZE
from training.importing.candidate import Candidate, input_of, open_session
from training.importing.import_report import REPORT, ImportReport
from training.importing.input_options import Expectation, find_geometry, other_readings
from training.importing.input_spec import Channels, Convention, PixelRange
from training.importing.labels import name_classes, wrong_classes
from training.importing.presets import PRESETS, triple
from training.importing.probes import make_probes
from training.importing.torchvision_weights import find_origin
from training.learning.networks import (
    IMAGENET,
    PLAIN_LAYERS,
    build_network,
    default_image_size,
    parse_architecture,
)
from training.learning.normalization import Normalization
from training.run.inference import predict
from training.run.initial_weights import (
    HEAD_PARAMETERS,
    download_torchvision_weights,
    read_state_dict,
)
from training.run.weights import Trained, is_weights_file, read_weights, serialise
from training.steps.export import OUTPUTS, ExportModule, classifier_bytes, export_graph

RESIDUAL: Final = tuple(name for name in IMAGENET if name not in PLAIN_LAYERS)
"""Every residual classifier that torchvision builds."""


def read_torchvision(name: str, weights: Path | None, expectation: Expectation) -> Candidate:
    """Torchvision's pretrained network with its own categories and transforms; `weights` is its file where there is no network.

    Raises ForeignModelError, InitialWeightsError.
    """
    if name not in RESIDUAL:
        raise ForeignModelError(
            f"torchvision has no residual classifier {name!r}; it has {', '.join(RESIDUAL)}"
        )
    origin = find_origin(name, weights)
    report = ImportReport(f"torchvision's {name} ({origin.name})")
    report.add("weights", origin.name, origin.certainty, origin.evidence)
    class_names = name_classes(origin.categories, report, origin.certainty)
    state = (
        download_torchvision_weights(name, "--weights FILE")
        if weights is None
        else read_state_dict(weights)
    )
    if expectation.preset is None:
        expectation = replace(
            expectation,
            preset=origin.preset,
            preset_certainty=origin.certainty,
            preset_evidence=origin.transforms_evidence,
        )
    trained = _fitted(
        state, _normalization(expectation, report), name, class_names, str(weights or origin.name)
    )
    digest = (
        sha256(serialise(trained)).hexdigest() if weights is None else sha256_of(weights.resolve())
    )
    imported = Imported(
        kind="torchvision", name=origin.name, architecture=name, report=REPORT, sha256=digest
    )
    return _candidate(trained, class_names, expectation, report, imported)


def read_weights_file(
    path: Path, architecture: str | None, labels: Sequence[str], expectation: Expectation
) -> Candidate:
    """A state dict under torchvision's names, or a weights file of this project.

    Raises ForeignModelError, InitialWeightsError, RecipeError.
    """
    report = ImportReport(path.name)
    class_names = name_classes(labels, report)
    if path.is_file() and is_weights_file(path):
        trained = read_weights(path)
        if architecture not in {None, trained.architecture}:
            raise ForeignModelError(
                f"{path} holds a {trained.architecture}, not a {architecture}; leave --arch away"
            )
        report.add("network", trained.architecture, "found", "this project wrote the file")
        if trained.classes != len(class_names):
            raise wrong_classes(path, trained.classes, class_names)
        if expectation.channels == "BGR":
            raise _not_rgb()
        if (
            expectation.preset is None
            and expectation.mean is None
            and expectation.std is None
            and expectation.scale is None
        ):
            report.add("range", "the file's own", "found", "this project wrote the file")
        else:
            trained = replace(trained, normalize=_normalization(expectation, report))
    elif architecture is None:
        raise ForeignModelError(f"{path} does not say which network it is of; say it with --arch")
    else:
        parse_architecture(architecture)
        report.add("network", architecture, "given", "the names and shapes of the weights fit it")
        if expectation.preset is None and expectation.mean is None:
            expectation = replace(
                expectation,
                preset=PRESETS["torchvision"],
                preset_certainty="assumed",
                preset_evidence="torchvision's, as neither --preset nor --mean was given",
            )
        trained = _fitted(
            read_state_dict(path),
            _normalization(expectation, report),
            architecture,
            class_names,
            str(path),
        )
    if expectation.size is None and (expectation.preset is None or expectation.preset.size is None):
        side = default_image_size(trained.architecture)
        evidence = f"no --size was given, and {trained.architecture} is made for it"
        expectation = replace(expectation, size=(side, side), size_evidence=evidence)
    digest = sha256_of(path.resolve())
    imported = Imported(
        kind="weights",
        name=path.name,
        architecture=trained.architecture,
        report=REPORT,
        sha256=digest,
    )
    return _candidate(trained, class_names, expectation, report, imported)


def _candidate(
    trained: Trained,
    class_names: tuple[str, ...],
    expectation: Expectation,
    report: ImportReport,
    imported: Imported,
) -> Candidate:
    spec = find_geometry((None, None), "the network", expectation, report)
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        model = export_graph(
            ExportModule(trained.answering, trained.normalize), input_of(spec), Path(folder)
        )
    probes = make_probes(input_of(spec))
    head = trained.network.get_submodule("fc")
    session = open_session(model, input_of(spec), OUTPUTS)
    logits, features = session.run_with_features(probes)
    weight, bias = (head.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    identity_error = float(np.abs(features.mean((2, 3)) @ weight.T + bias - logits).max())
    report.add(
        "features",
        "the last feature map",
        "checked",
        f"mean x weight + bias are the logits within {identity_error:.2g}",
    )
    return Candidate(
        model=model,
        outputs=OUTPUTS,
        preprocessing=spec,
        class_names=class_names,
        max_batch_size=EXPORT_MAX_BATCH_SIZE,
        original=partial(_answers, trained, trained.normalize, "RGB"),
        imported=imported,
        report=report,
        classifier=classifier_bytes(trained.network),
        checkpoint=serialise(trained),
        identity_error=identity_error,
        other_readings={
            name: partial(_answers, trained, _as_normalization(other.range), other.range.channels)
            for name, other in other_readings(
                Convention("NCHW", TensorProto.FLOAT, _as_range(trained.normalize))
            ).items()
        },
    )


def _answers(
    trained: Trained, normalize: Normalization, channels: Channels, pixels: Pixels
) -> Logits:
    turned = pixels[..., ::-1] if channels == "BGR" else pixels
    return predict(
        trained.answering, [turned.copy()], normalize
    ).numpy()  # a copy: torch warns of arrays that it could not write to


def _fitted(
    state: Mapping[str, Tensor],
    normalize: Normalization,
    architecture: str,
    class_names: tuple[str, ...],
    origin: str,
) -> Trained:
    if missing := [part for part in HEAD_PARAMETERS if part not in state]:
        raise ForeignModelError(
            f"{origin} has no {missing[0]}, so there is no classifier in it (torchvision's names are expected)"
        )
    if state[HEAD_PARAMETERS[0]].ndim != 2:
        raise ForeignModelError(
            f"{origin}: {HEAD_PARAMETERS[0]} is no matrix, so there is no classifier in it"
        )
    if (classes := len(state[HEAD_PARAMETERS[0]])) != len(class_names):
        raise wrong_classes(origin, classes, class_names)
    network = build_network(architecture, len(class_names))
    try:
        network.load_state_dict(
            state
        )  # strictly: what is missing here would be a random number there
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise ForeignModelError(
            f"{origin} does not hold a {architecture}: {problem} (torchvision's names are expected)"
        ) from None
    return Trained(network, normalize, architecture, len(class_names), 0)


def _normalization(expectation: Expectation, report: ImportReport) -> Normalization:
    values = expectation.range()
    if values.channels != "RGB":
        raise _not_rgb()
    report.add("range", values, expectation.range_certainty, expectation.source())
    return _as_normalization(values)


def _not_rgb() -> ForeignModelError:
    return ForeignModelError(
        "weights are taken as of a network for RGB; export one for BGR to ONNX, and give --onnx"
    )


def _as_normalization(values: PixelRange) -> Normalization:
    """The same in grey levels: (level - mean) / std."""
    mean, std = (
        np.array(numbers, np.float64) / values.scale for numbers in (values.mean, values.std)
    )
    return Normalization(*(_column(numbers) for numbers in (mean, std)))


def _as_range(normalize: Normalization) -> PixelRange:
    """The same in grey levels back again; of a mean image its mean colour."""
    mean, std = (
        triple(np.broadcast_to(values.mean((-2, -1)).numpy(), 3))
        for values in (normalize.mean, normalize.std)
    )
    return PixelRange("RGB", 1.0, mean, std)


def _column(numbers: Any) -> Tensor:
    return Tensor(numbers.astype(np.float32)).reshape(3, 1, 1)
