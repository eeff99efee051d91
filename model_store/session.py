"""Pixels to logits and logits to probabilities: ONNX Runtime behind the contract that every version has the same input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.errors import ModelRunError
from model_store.graph_cache import GraphCache
from model_store.manifest import MODEL_INPUT, Input, Outputs, Precision
from model_store.preprocessing import Pixels
from model_store.providers import CPU, NVIDIA, engine_directory, provider_options

Logits = NDArray[np.float32]
NEEDS_CUDA: Final[frozenset[Precision]] = frozenset({"fp16", "bf16"})
"""Precisions for GPUs: on a CPU they are slower than fp32, or not there at all."""
_ONLY_ERRORS = 3
_ONLY_FATAL = 4


@dataclass(frozen=True)
class SessionOptions:
    """How a model runs. One thread a run and several concurrent runs share the weights and use all cores.

    `concurrent_runs` says how many to expect, for providers that have threads of their own. `device` and `gpu_memory_bytes` are
    for GPUs: which one, and the most that its arena takes. Batches are padded to the next of `batch_sizes`. `graphs` caches
    optimised graphs, `engines` is a directory for what providers compile.
    """

    providers: Sequence[str] = (CPU,)
    intra_op_num_threads: int = 1
    concurrent_runs: int = 1
    allow_spinning: bool = False
    log_errors: bool = True  # they are raised anyway
    device: int = 0
    gpu_memory_bytes: int = 4 * 1024**3
    batch_sizes: Sequence[int] = ()
    graphs: GraphCache | None = None
    engines: Path | None = None


class RunControl:
    """Ends the run that it was given to, from another thread. Several runs may follow each other with one.

    A run that `gives_memory_back` leaves nothing of what it took on the CPU in the arena; the next large one takes it again.
    """

    def __init__(self, *, gives_memory_back: bool = False) -> None:
        self.options = onnxruntime.RunOptions()
        if gives_memory_back:
            self.options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def terminate(self) -> None:
        """End the run before its next node, with a ModelRunError; it is of no use to another run from then on."""
        self.options.terminate = True


class Session:
    """One loaded model; `run` may be called from several threads at once."""

    def __init__(
        self,
        path: Path,
        model_input: Input,
        outputs: Outputs,
        options: SessionOptions | None = None,
        digest: str | None = None,
    ) -> None:
        """Load the file and hold its signature against the manifest's. Raises ModelRunError, also for another provider.

        With the `digest` that the file was verified by, what was made of it before comes from the options' caches.
        """
        options = options or SessionOptions()
        available = onnxruntime.get_available_providers()
        if missing := [provider for provider in options.providers if provider not in available]:
            raise ModelRunError(
                f"ONNX Runtime here has no {', '.join(missing)}; it has {', '.join(available)}"
            )
        try:
            self._session = _load(path, options, digest)
        except Exception as error:  # ONNX Runtime's own exceptions share no public base class
            reason = _first_line(error).replace(
                str(path), path.name
            )  # clients read it, and paths are not theirs
            raise ModelRunError(f"ONNX Runtime can not load {path.name}: {reason}") from error
        taken = (
            self._session.get_providers()
        )  # where a provider's libraries are missing, ONNX Runtime goes on without it
        if taken[0] != options.providers[0]:
            raise ModelRunError(
                f"ONNX Runtime could not start {options.providers[0]} and took {taken[0]} for {path.name}: its libraries or its "
                "device are missing here"
            )
        self._outputs = outputs
        self._batch_sizes = sorted(options.batch_sizes)
        self._device = ("cuda", options.device) if options.providers[0] in NVIDIA else None
        self._check_signature(model_input)

    def run(self, images: Pixels, control: RunControl | None = None) -> Logits:
        """Logits, float32 `[batch, classes]`, of uint8 RGB images `[batch, height, width, 3]`. Raises ModelRunError."""
        return self._run([self._outputs.logits], images, control)[0]

    def run_with_features(self, images: Pixels) -> tuple[Logits, NDArray[np.float32]]:
        """Logits as `run` gives them and the last feature map, float32 `[batch, channels, h, w]`. Raises ModelRunError."""
        if self._outputs.features is None:
            raise ModelRunError("this model has no feature map output")
        logits, features = self._run([self._outputs.logits, self._outputs.features], images)
        return logits, features

    def _run(
        self, names: Sequence[str], images: Pixels, control: RunControl | None = None
    ) -> list[NDArray[np.float32]]:
        options = control.options if control else None
        batch = self._pad(images)
        try:
            if self._device:
                found = self._run_on(self._device, names, batch, options)
            else:
                found = self._session.run(names, {MODEL_INPUT: batch}, options)
        except Exception as error:  # as above
            raise ModelRunError(
                f"ONNX Runtime failed on a batch of shape {images.shape}: {_first_line(error)}"
            ) from error
        return [rows[: len(images)] for rows in found]

    def _run_on(
        self,
        device: tuple[str, int],
        names: Sequence[str],
        images: Pixels,
        options: onnxruntime.RunOptions | None,
    ) -> list[NDArray[np.float32]]:
        """The run with input and outputs bound to a GPU: uint8 goes over the bus, and only the outputs asked for come back."""
        binding = self._session.io_binding()
        binding.bind_cpu_input(
            MODEL_INPUT, np.ascontiguousarray(images)
        )  # copied into the session's own, bounded arena
        for name in names:
            binding.bind_output(name, *device)
        self._session.run_with_iobinding(binding, options)
        return list(binding.copy_outputs_to_cpu())

    def _pad(self, images: Pixels) -> Pixels:
        """The batch, filled with black images up to the next of the sizes that the provider knows."""
        size = next((size for size in self._batch_sizes if size >= len(images)), len(images))
        if size == len(images):
            return images
        return np.concatenate(
            [images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)]
        )

    def _check_signature(self, model_input: Input) -> None:
        found = [
            (entry.name, entry.type, list(entry.shape)) for entry in self._session.get_inputs()
        ]
        wanted = (model_input.name, "tensor(uint8)", [model_input.height, model_input.width, 3])
        if (
            len(found) != 1
            or (found[0][0], found[0][1], found[0][2][1:]) != wanted
            or isinstance(found[0][2][0], int)
        ):
            raise ModelRunError(
                f"the model's input must be {wanted[0]}: {wanted[1]} [batch, {model_input.height}, {model_input.width}, 3] "
                f"with a free batch; it is {_describe_inputs(found)}"
            )
        names = {entry.name for entry in self._session.get_outputs()}
        expected = {self._outputs.logits} | (
            {self._outputs.features} if self._outputs.features else set()
        )
        if not expected <= names:
            raise ModelRunError(
                f"the model must have the outputs {sorted(expected)}; it has {sorted(names)}"
            )


def probabilities(
    scores: Logits, outputs: Outputs, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Probabilities `[batch, classes]`: softmax of logits over `temperature` (Guo et al. 2017), or the model's own."""
    if outputs.kind == "probabilities":
        return scores
    scaled = scores / np.float32(temperature)
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def _load(path: Path, options: SessionOptions, digest: str | None) -> onnxruntime.InferenceSession:
    if options.graphs and digest and tuple(options.providers) == (CPU,):
        return options.graphs.open(path, digest, partial(_settings, options))
    engines = engine_directory(options.engines, digest) if options.engines and digest else None
    given = [
        provider_options(
            name,
            device=options.device,
            threads=options.intra_op_num_threads,
            concurrent_runs=options.concurrent_runs,
            memory_bytes=options.gpu_memory_bytes,
            engines=engines,
        )
        for name in options.providers
    ]
    # Without `enable_fallback` ONNX Runtime would print an error and go on without the provider.
    return onnxruntime.InferenceSession(
        path,
        _settings(options),
        providers=list(options.providers),
        provider_options=given,
        enable_fallback=0,
    )


def _settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.intra_op_num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _ONLY_ERRORS if options.log_errors else _ONLY_FATAL
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", str(int(options.allow_spinning))
    )
    return settings


def _describe_inputs(found: Sequence[tuple[str, str, Sequence[Any]]]) -> str:
    return "; ".join(f"{name}: {kind} {list(shape)}" for name, kind, shape in found) or "none"


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:300]
