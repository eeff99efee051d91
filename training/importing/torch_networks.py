"""Turns torch weights with torchvision's names into an import candidate."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from torch import Tensor

from model_store.files import sha256_of
from model_store.preprocessing import Pixels
from model_store.provenance import Imported
from model_store.session import Logits
from training.errors import ForeignModelError
from training.gates.checks import scaled_difference
from training.importing.candidate import ImportCandidate, input_size_of, open_session
from training.importing.import_report import IMPORT_REPORT, ImportReport
from training.importing.input_options import (
    InputOptions,
    alternative_specs,
    find_preprocessing,
    other_geometries,
)
from training.importing.input_spec import Channels, InputSpec, PixelRange
from training.importing.labels import class_count_error, name_classes
from training.importing.presets import PRESETS, triple
from training.importing.pretrained_names import require_torchvision_network
from training.importing.probes import make_probes
from training.importing.torchvision_weights import identify_weights
from training.learning.architectures import default_image_size, parse_architecture
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.run.foreign_weights import download_torchvision_weights, read_foreign_weights
from training.run.inference import predict
from training.run.initial_weights import HEAD_PARAMETERS
from training.run.weights import TrainedNetwork, is_weights_file, read_weights, serialise
from training.steps.export import (
    EXPORT_MAX_BATCH_SIZE,
    OUTPUTS,
    ExportModule,
    classifier_bytes,
    export_graph,
)


def read_torchvision(name: str, weights: Path | None, options: InputOptions) -> ImportCandidate:
    """Read a pretrained torchvision network with its own labels and transforms.

    Args:
        weights: A file with its weights; None downloads the default ones.

    Raises:
        ForeignModelError: If there is no such network, or the weights do not fit it.
        InitialWeightsError: If the weights cannot be downloaded or read.
    """
    require_torchvision_network(name)
    known = identify_weights(name, weights)
    report = ImportReport(f"torchvision's {name} ({known.name})")
    report.add("weights", known.name, known.certainty, known.evidence)
    class_names = name_classes(known.categories, report, known.certainty)
    state = (
        download_torchvision_weights(name, "--weights FILE")
        if weights is None
        else _read_state(weights, report)
    )
    if options.preset is None:
        options = replace(
            options,
            preset=known.preset,
            preset_certainty=known.certainty,
            preset_evidence=known.transforms_evidence,
        )
    normalization = make_normalization(options, report)
    trained = _load_network(state, normalization, name, class_names, str(weights or known.name))
    digest = sha256(serialise(trained)).hexdigest()
    if weights is not None:
        digest = sha256_of(weights.resolve())
    imported = Imported(
        kind="torchvision",
        name=known.name,
        architecture=name,
        report=IMPORT_REPORT,
        sha256=digest,
    )
    return export_candidate(trained, class_names, options, report, imported)


def read_weights_file(
    path: Path, architecture: str | None, labels: Sequence[str], options: InputOptions
) -> ImportCandidate:
    """Read a state dict with torchvision's names, or a weights file of this project.

    Raises ForeignModelError, InitialWeightsError or RecipeError if the file cannot be used.
    """
    report = ImportReport(path.name)
    class_names = name_classes(labels, report)
    if path.is_file() and is_weights_file(path):
        trained = _read_own_weights(path, architecture, class_names, options, report)
    elif architecture is None:
        raise ForeignModelError(f"{path} does not state its architecture; give it with --arch")
    else:
        parse_architecture(architecture)
        evidence = "the names and shapes of the weights fit it"
        report.add("network", architecture, "given", evidence)
        if options.preset is None and options.mean is None:
            options = replace(
                options,
                preset=PRESETS["torchvision"],
                preset_certainty="assumed",
                preset_evidence="torchvision's, because neither --preset nor --mean was given",
            )
        state, normalization = _read_state(path, report), make_normalization(options, report)
        trained = _load_network(state, normalization, architecture, class_names, str(path))
    if options.size is None and (options.preset is None or options.preset.size is None):
        side = default_image_size(trained.architecture)
        evidence = f"the default of {trained.architecture}, because --size was not given"
        options = replace(options, size=(side, side), size_evidence=evidence)
    imported = Imported(
        kind="weights",
        name=path.name,
        architecture=trained.architecture,
        report=IMPORT_REPORT,
        sha256=sha256_of(path.resolve()),
    )
    return export_candidate(trained, class_names, options, report, imported)


def _read_state(path: Path, report: ImportReport) -> Mapping[str, Tensor]:
    weights = read_foreign_weights(path)
    if weights.changes:
        report.add("tensors", len(weights.state), "changed", "; ".join(weights.changes))
    return weights.state


def _read_own_weights(
    path: Path,
    architecture: str | None,
    class_names: tuple[str, ...],
    options: InputOptions,
    report: ImportReport,
) -> TrainedNetwork:
    trained = read_weights(path)
    if architecture not in {None, trained.architecture}:
        raise ForeignModelError(
            f"{path} holds a {trained.architecture}, but --arch is {architecture}; omit --arch"
        )
    report.add("network", trained.architecture, "found", "the file is from this project")
    if trained.classes != len(class_names):
        raise class_count_error(path, trained.classes, class_names)
    if options.channels == "BGR":
        raise _not_rgb()
    if options.preset is None and not options.range_flags.keys() - {"channels"}:
        report.add("range", "the file's own", "found", "the file is from this project")
        return trained
    return replace(trained, normalize=make_normalization(options, report))


def export_candidate(
    trained: TrainedNetwork,
    class_names: tuple[str, ...],
    options: InputOptions,
    report: ImportReport,
    imported: Imported,
) -> ImportCandidate:
    preprocessing = find_preprocessing((None, None), "the network", options, report)
    model_input = input_size_of(preprocessing)
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        served = ExportModule(trained.inference_network, trained.normalize)
        model = export_graph(served, model_input, Path(folder))
    session = open_session(model, model_input, OUTPUTS)
    probes = make_probes(model_input)
    logits, features = session.run_with_features(probes)
    _, embeddings = session.run_with_embedding(probes)
    head = trained.network.get_submodule("fc")
    weight, bias = (head.get_parameter(name).detach().numpy() for name in ("weight", "bias"))
    identity_error = max(
        scaled_difference(pooled @ weight.T + bias, logits)
        for pooled in (features.mean((2, 3)), embeddings)
    )
    evidence = f"mean x weight + bias are the logits within {identity_error:.2g}"
    report.add("features", "the last feature map", "checked", evidence)
    input_spec = InputSpec("NCHW", TensorProto.FLOAT, _as_range(trained.normalize))
    return ImportCandidate(
        model=model,
        outputs=OUTPUTS,
        preprocessing=preprocessing,
        class_names=class_names,
        max_batch_size=EXPORT_MAX_BATCH_SIZE,
        reference=partial(_scores, trained, trained.normalize, "RGB"),
        imported=imported,
        report=report,
        classifier=classifier_bytes(trained.network),
        checkpoint=serialise(trained),
        identity_error=identity_error,
        alternatives={
            name: partial(_scores, trained, _as_normalization(spec.range), spec.range.channels)
            for name, spec in alternative_specs(input_spec).items()
        },
        geometries=other_geometries(preprocessing, options),
    )


def _scores(
    trained: TrainedNetwork, normalize: Normalization, channels: Channels, pixels: Pixels
) -> Logits:
    # The copy is writable and contiguous, as torch requires.
    ordered = (pixels[..., ::-1] if channels == "BGR" else pixels).copy()
    return predict(trained.inference_network, [ordered], normalize).numpy()


def _load_network(
    state: Mapping[str, Tensor],
    normalize: Normalization,
    architecture: str,
    class_names: tuple[str, ...],
    source: str,
) -> TrainedNetwork:
    if missing := [part for part in HEAD_PARAMETERS if part not in state]:
        raise ForeignModelError(
            f"{source} has no {missing[0]}, expected a classifier with torchvision's names"
        )
    if state[HEAD_PARAMETERS[0]].ndim != 2:
        raise ForeignModelError(
            f"{source}: {HEAD_PARAMETERS[0]} is not a matrix, expected a classifier with "
            "torchvision's names"
        )
    if (classes := len(state[HEAD_PARAMETERS[0]])) != len(class_names):
        raise class_count_error(source, classes, class_names)
    network = build_network(architecture, len(class_names))
    try:
        network.load_state_dict(state)  # strict: missing weights would be random
    except RuntimeError as error:
        problem = str(error).splitlines()[1].strip()
        raise ForeignModelError(
            f"{source} does not contain a {architecture}: {problem}; expected torchvision's names"
        ) from None
    return TrainedNetwork(network, normalize, architecture, len(class_names), 0)


def make_normalization(options: InputOptions, report: ImportReport) -> Normalization:
    values = options.pixel_range()
    if values.channels != "RGB":
        raise _not_rgb()
    report.add("range", values, options.range_certainty, options.range_source())
    return _as_normalization(values)


def _not_rgb() -> ForeignModelError:
    return ForeignModelError(
        "--weights and --torchvision take networks for RGB, got BGR; export the network to ONNX "
        "and give --onnx"
    )


def _as_normalization(values: PixelRange) -> Normalization:
    """The same range as mean and std in grey levels."""
    mean, std = (
        np.array(numbers, np.float64) / values.scale for numbers in (values.mean, values.std)
    )
    return Normalization(*(_column(numbers) for numbers in (mean, std)))


def _as_range(normalize: Normalization) -> PixelRange:
    """The inverse of `_as_normalization`; a mean image becomes its mean colour."""
    mean, std = (
        triple(np.broadcast_to(values.mean((-2, -1)).numpy(), 3))
        for values in (normalize.mean, normalize.std)
    )
    return PixelRange("RGB", 1.0, mean, std)


def _column(numbers: Any) -> Tensor:
    return Tensor(numbers.astype(np.float32)).reshape(3, 1, 1)
