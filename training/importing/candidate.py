"""An import before verification: the model to seal, and the reference to compare it with."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_store.manifest import Input, Outputs, Preprocessing
from model_store.preprocessing import Pixels
from model_store.provenance import Imported
from model_store.session import Logits, Session, SessionOptions
from training.importing.import_report import ImportReport

ScoreFunction = Callable[[Pixels], Logits]
"""From uint8 RGB images `[n, h, w, 3]` to scores, float32 `[n, classes]`."""


@dataclass(frozen=True)
class ImportCandidate:
    """A model that is not verified yet.

    Attributes:
        reference: The network as its author runs it, independent of `model`.
        identity_error: `scaled_difference` of mean(features) x weight + bias and the logits; None
            without features.
        alternatives: The reference under other input specs, by name. `--verify` checks that
            none of them is better.
        geometries: Other ways to resize the images, by name, for the same check.
    """

    model: bytes
    outputs: Outputs
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    max_batch_size: int
    reference: ScoreFunction
    imported: Imported
    report: ImportReport
    classifier: bytes | None = None
    checkpoint: bytes | None = None
    identity_error: float | None = None
    alternatives: Mapping[str, ScoreFunction] = field(default_factory=dict)
    geometries: Mapping[str, Preprocessing] = field(default_factory=dict)

    @property
    def input(self) -> Input:
        return input_size_of(self.preprocessing)


def input_size_of(preprocessing: Preprocessing) -> Input:
    return Input(height=preprocessing.crop_height, width=preprocessing.crop_width)


def open_session(model: bytes, model_input: Input, outputs: Outputs) -> Session:
    """Open a session as the service does. Raises ModelRunError."""
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return Session(path, model_input, outputs, SessionOptions(log_errors=False))
