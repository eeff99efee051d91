"""Runs a model file on many images, with the same session class as the service."""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.manifest import Manifest
from model_store.preprocessing import Pixels
from model_store.providers import CUDA
from model_store.session import Logits, Session, SessionOptions, probabilities
from training.run.inference import run_in_batches

MAX_SCORING_BATCH: Final = 32


@dataclass(frozen=True)
class Scorer:
    """Opens files of one model, on the GPU if `on_gpu` is set and ONNX Runtime has one."""

    manifest: Manifest
    folder: Path
    on_gpu: bool = False

    @property
    def batch(self) -> int:
        """The batch size: the model's maximum, at most 32."""
        return min(MAX_SCORING_BATCH, self.manifest.max_batch_size)

    @property
    def uses_gpu(self) -> bool:
        return self.on_gpu and CUDA in onnxruntime.get_available_providers()

    def open(self, data: bytes) -> Session:
        """Open a session with one thread. Raises ModelRunError."""
        path = self.folder / "model.onnx"
        path.write_bytes(data)
        providers = (CUDA, "CPUExecutionProvider") if self.uses_gpu else ("CPUExecutionProvider",)
        return Session(
            path, self.manifest.input, self.manifest.outputs, SessionOptions(providers=providers)
        )

    def probabilities(self, logits: Logits) -> NDArray[np.float32]:
        """Calibrated probabilities, as in the service."""
        calibration = self.manifest.calibration
        return probabilities(
            logits, self.manifest.outputs, calibration.temperature if calibration else 1.0
        )


@contextmanager
def open_scorer(manifest: Manifest, *, on_gpu: bool = False) -> Iterator[Scorer]:
    """Make a scorer with a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="precision-") as folder:
        yield Scorer(manifest, Path(folder), on_gpu)


def score(
    session: Session,
    chunks: Iterable[Pixels],
    total: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
    *,
    size: int = MAX_SCORING_BATCH,
) -> Logits:
    """Logits `[n, classes]` of uint8 chunks `[k, height, width, 3]`, in batches of `size`."""
    logits: list[Logits] = []
    done = 0
    for chunk in chunks:
        logits.append(run_in_batches(session, chunk, size))
        done += len(chunk)
        progress(done, max(total, done))
    return np.concatenate(logits)
