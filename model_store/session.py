"""Pixels to logits and logits to probabilities: ONNX Runtime behind the contract that every version has the same input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.errors import ModelRunError
from model_store.manifest import MODEL_INPUT, Input, Outputs, Precision
from model_store.preprocessing import Pixels

Logits = NDArray[np.float32]
CUDA: Final = "CUDAExecutionProvider"
NEEDS_CUDA: Final[frozenset[Precision]] = frozenset({"fp16", "bf16"})
"""Precisions for GPUs: on a CPU they are slower than fp32, or not there at all."""
_ONLY_ERRORS = 3
_ONLY_FATAL = 4


@dataclass(frozen=True)
class SessionOptions:
    """How a model runs. One thread a run and several concurrent runs share the weights and use all cores."""

    providers: Sequence[str] = ("CPUExecutionProvider",)
    intra_op_num_threads: int = 1
    allow_spinning: bool = False
    log_errors: bool = True  # they are raised anyway


class Session:
    """One loaded model; `run` may be called from several threads at once."""

    def __init__(self, path: Path, model_input: Input, outputs: Outputs, options: SessionOptions | None = None) -> None:
        """Load the file and hold its signature against the manifest's. Raises ModelRunError, also for another provider."""
        options = options or SessionOptions()
        available = onnxruntime.get_available_providers()
        if missing := [provider for provider in options.providers if provider not in available]:
            raise ModelRunError(f"ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.intra_op_num_threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = _ONLY_ERRORS if options.log_errors else _ONLY_FATAL
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.allow_spinning)))
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=list(options.providers))
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            reason = _first_line(error).replace(str(path), path.name)  # clients read it, and paths are not theirs
            raise ModelRunError(f"ONNX Runtime can not load {path.name}: {reason}") from error
        taken = self._session.get_providers()  # where a provider's libraries are missing, ONNX Runtime goes on without it
        if taken[0] != options.providers[0]:
            raise ModelRunError(
                f"ONNX Runtime could not start {options.providers[0]} and took {taken[0]} for {path.name}: its libraries or its "
                "device are missing here"
            )
        self._outputs = outputs
        self._check_signature(model_input)

    def run(self, images: Pixels) -> Logits:
        """Logits, float32 `[batch, classes]`, of uint8 RGB images `[batch, height, width, 3]`. Raises ModelRunError."""
        return self._run([self._outputs.logits], images)[0]

    def run_with_features(self, images: Pixels) -> tuple[Logits, NDArray[np.float32]]:
        """Logits as `run` gives them and the last feature map, float32 `[batch, channels, h, w]`. Raises ModelRunError."""
        if self._outputs.features is None:
            raise ModelRunError("this model has no feature map output")
        logits, features = self._run([self._outputs.logits, self._outputs.features], images)
        return logits, features

    def _run(self, names: Sequence[str], images: Pixels) -> list[NDArray[np.float32]]:
        try:
            return list(self._session.run(names, {MODEL_INPUT: images}))
        except Exception as error:  # as above
            raise ModelRunError(f"ONNX Runtime failed on a batch of shape {images.shape}: {_first_line(error)}") from error

    def _check_signature(self, model_input: Input) -> None:
        found = [(entry.name, entry.type, list(entry.shape)) for entry in self._session.get_inputs()]
        wanted = (model_input.name, "tensor(uint8)", [model_input.height, model_input.width, 3])
        if len(found) != 1 or (found[0][0], found[0][1], found[0][2][1:]) != wanted or isinstance(found[0][2][0], int):
            raise ModelRunError(
                f"the model's input must be {wanted[0]}: {wanted[1]} [batch, {model_input.height}, {model_input.width}, 3] "
                f"with a free batch; it is {_describe_inputs(found)}"
            )
        names = {entry.name for entry in self._session.get_outputs()}
        expected = {self._outputs.logits} | ({self._outputs.features} if self._outputs.features else set())
        if not expected <= names:
            raise ModelRunError(f"the model must have the outputs {sorted(expected)}; it has {sorted(names)}")


def probabilities(scores: Logits, outputs: Outputs, temperature: float = 1.0) -> NDArray[np.float32]:
    """Probabilities `[batch, classes]`: softmax of logits over `temperature` (Guo et al. 2017), or the model's own."""
    if outputs.kind == "probabilities":
        return scores
    scaled = scores / np.float32(temperature)
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def _describe_inputs(found: Sequence[tuple[str, str, Sequence[Any]]]) -> str:
    return "; ".join(f"{name}: {kind} {list(shape)}" for name, kind, shape in found) or "none"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
