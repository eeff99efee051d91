"""A candidate: a foreign network brought under the contract, with the original to hold it against; nothing is proven yet."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model_store.manifest import Input, Outputs, Preprocessing
from model_store.preprocessing import Pixels
from model_store.provenance import Imported
from model_store.session import Logits, Session, SessionOptions
from training.importing.import_report import ImportReport

Answers = Callable[[Pixels], Logits]
"""uint8 RGB images `[n, h, w, 3]` to scores, float32 `[n, classes]`."""


@dataclass(frozen=True)
class Candidate:
    """What would be sealed, and `original`, which computes the same without any of it.

    `identity_error` is how far mean(features) x weight + bias is from the logits; None where there are no features.
    `other_readings` are the original under other expectations of its pixels, by name: labelled images can tell them apart.
    """

    model: bytes
    outputs: Outputs
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    max_batch_size: int
    original: Answers
    imported: Imported
    report: ImportReport
    classifier: bytes | None = None
    checkpoint: bytes | None = None
    identity_error: float | None = None
    other_readings: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def input(self) -> Input:
        """The input that the preprocessing makes."""
        return input_of(self.preprocessing)


def input_of(spec: Preprocessing) -> Input:
    """The input that a preprocessing makes."""
    return Input(height=spec.crop_height, width=spec.crop_width)


def open_session(model: bytes, model_input: Input, outputs: Outputs) -> Session:
    """The session that would serve these bytes. Raises ModelRunError."""
    with tempfile.TemporaryDirectory(prefix="import-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        return Session(path, model_input, outputs, SessionOptions(log_errors=False))
