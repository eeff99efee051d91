"""ONNX Runtime sessions: from pixels to logits, and from logits to probabilities."""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.errors import ModelRunError, StoreUnreadableError, VersionCorruptError
from model_store.graph_cache import GraphCache, OpenModel
from model_store.manifest import MODEL_INPUT, Input, Outputs, Precision
from model_store.names import printable
from model_store.preprocessing import Pixels
from model_store.providers import CPU, NVIDIA, engine_directory, provider_options

Logits = NDArray[np.float32]
Embeddings = NDArray[np.float32]
FeatureMaps = NDArray[np.float32]
NEEDS_CUDA: Final[frozenset[Precision]] = frozenset({"fp16", "bf16"})
"""Precisions for GPUs. On a CPU they are slower than fp32, or not supported."""
_ABSOLUTE_PATH = re.compile(r"(?<![\w.])/[^\s'\":,;()\[\]]*/[^\s'\":,;()\[\]]*")
_BUILD_DIRECTORY = "onnxruntime_src"  # where ONNX Runtime's source files were when it was compiled
_LOG_ERRORS = 3
_LOG_FATAL = 4


@dataclass(frozen=True)
class SessionOptions:
    """How a model runs. By default each run has one thread, and concurrent runs share the weights.

    Attributes:
        providers: ONNX Runtime's execution providers, best first.
        intra_op_num_threads: Threads of one run on the CPU.
        concurrent_runs: Runs to expect at once, for providers with threads of their own.
        allow_spinning: Whether idle threads of a run spin, which costs CPU time.
        log_errors: Whether ONNX Runtime logs the errors that it raises.
        device: Index of the GPU.
        gpu_memory_bytes: Limit of the GPU memory for one session.
        batch_sizes: Batches are padded to the next of these sizes; none for no padding.
        graphs: Cache of optimised graphs.
        engines: Directory for engines that a provider compiles.
    """

    providers: Sequence[str] = (CPU,)
    intra_op_num_threads: int = 1
    concurrent_runs: int = 1
    allow_spinning: bool = False
    log_errors: bool = True
    device: int = 0
    gpu_memory_bytes: int = 4 * 1024**3
    batch_sizes: Sequence[int] = ()
    graphs: GraphCache | None = None
    engines: Path | None = None


class RunControl:
    """Options of a run, and a way to end it from another thread. Consecutive runs may share one.

    Args:
        release_memory: Whether the run returns its memory on the CPU to the system when it ends.
    """

    def __init__(self, *, release_memory: bool = False) -> None:
        self.options = onnxruntime.RunOptions()
        if release_memory:
            self.options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def terminate(self) -> None:
        """End the run before its next node with a ModelRunError. This control cannot be reused."""
        self.options.terminate = True


class Session:
    """A loaded model. `run` is thread-safe.

    Attributes:
        embedding_dims: Length of an embedding; None if the model has no embedding.
    """

    def __init__(
        self,
        path: Path,
        model_input: Input,
        outputs: Outputs,
        options: SessionOptions | None = None,
        digest: str | None = None,
        open_model: OpenModel | None = None,
    ) -> None:
        """Load the file and check its inputs and outputs.

        Args:
            path: The ONNX file.
            model_input: The input that the graph must have.
            outputs: The outputs that the graph must have.
            options: How the model runs.
            digest: Identifies the content of the file for the caches. Without it, no cache is used.
            open_model: Yields the path of a file with that content, which no process can replace.

        Raises:
            ModelRunError: The file cannot be loaded, its inputs or outputs differ, or ONNX Runtime
                would not use the first provider.
        """
        options = options or SessionOptions()
        available = onnxruntime.get_available_providers()
        if missing := [provider for provider in options.providers if provider not in available]:
            raise ModelRunError(
                f"ONNX Runtime has no {', '.join(missing)}; it has {', '.join(available)}"
            )
        try:
            self._session = _load(path, options, digest, open_model)
        except (StoreUnreadableError, VersionCorruptError):
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            reason = _first_line(error, path)
            raise ModelRunError(f"ONNX Runtime cannot load {path.name}: {reason}") from error
        # Without a provider's libraries, ONNX Runtime silently uses the next one.
        if (used := self._session.get_providers()[0]) != options.providers[0]:
            raise ModelRunError(
                f"ONNX Runtime uses {used} instead of {options.providers[0]} for {path.name}, "
                "because the libraries or the device are missing"
            )
        self._outputs = outputs
        self.embedding_dims: int | None = None
        self._batch_sizes = sorted(options.batch_sizes)
        self._device = ("cuda", options.device) if options.providers[0] in NVIDIA else None
        self._check_signature(model_input)

    def run(self, images: Pixels, control: RunControl | None = None) -> Logits:
        """Run the model.

        Args:
            images: uint8 `[batch, height, width, 3]`, RGB.
            control: Options of this run.

        Returns:
            The scores, float32 `[batch, classes]`.

        Raises:
            ModelRunError: ONNX Runtime failed, or the run was terminated.
        """
        return self._run([self._outputs.logits], images, control)[0]

    def run_with_embedding(
        self, images: Pixels, control: RunControl | None = None
    ) -> tuple[Logits, Embeddings]:
        """Run the model for scores and the pooled features before the last layer.

        Args:
            images: uint8 `[batch, height, width, 3]`, RGB.
            control: Options of this run.

        Returns:
            Scores, float32 `[batch, classes]`, and embeddings, float32 `[batch, dims]`.

        Raises:
            ModelRunError: The model has no embedding, or ONNX Runtime failed.
        """
        if self._outputs.embedding is None:
            raise ModelRunError("the model has no embedding output")
        names = [self._outputs.logits, self._outputs.embedding]
        logits, embeddings = self._run(names, images, control)
        return logits, embeddings

    def run_with_extras(
        self, images: Pixels, control: RunControl | None, *, embedding: bool, features: bool
    ) -> tuple[Logits, Embeddings | None, FeatureMaps | None]:
        """Run the model for scores and those requested outputs that it has.

        Returns:
            As `run`, `run_with_embedding` and `run_with_features`; None for an output that was
            not requested or that the model lacks.

        Raises:
            ModelRunError: ONNX Runtime failed, or the run was terminated.
        """
        wanted = (
            self._outputs.embedding if embedding else None,
            self._outputs.features if features else None,
        )
        names = [name for name in wanted if name]
        logits, *others = self._run([self._outputs.logits, *names], images, control)
        found = dict(zip(names, others, strict=True))
        embeddings, maps = (found[name] if name else None for name in wanted)
        return logits, embeddings, maps

    def run_with_features(self, images: Pixels) -> tuple[Logits, FeatureMaps]:
        """Run the model for scores and the last feature map.

        Args:
            images: uint8 `[batch, height, width, 3]`, RGB.

        Returns:
            Scores, float32 `[batch, classes]`, and features, float32 `[batch, channels, h, w]`.

        Raises:
            ModelRunError: The model has no feature map, or ONNX Runtime failed.
        """
        if self._outputs.features is None:
            raise ModelRunError("the model has no feature map output")
        logits, features = self._run([self._outputs.logits, self._outputs.features], images)
        return logits, features

    def _run(
        self, names: Sequence[str], images: Pixels, control: RunControl | None = None
    ) -> list[NDArray[np.float32]]:
        options = control.options if control else None
        batch = self._pad(images)
        try:
            if self._device:
                results = self._run_on_gpu(self._device, names, batch, options)
            else:
                results = self._session.run(names, {MODEL_INPUT: batch}, options)
        except Exception as error:  # as in __init__
            raise ModelRunError(
                f"ONNX Runtime failed on a batch of shape {images.shape}: {_first_line(error)}"
            ) from error
        return [rows[: len(images)] for rows in results]

    def _run_on_gpu(
        self,
        device: tuple[str, int],
        names: Sequence[str],
        images: Pixels,
        options: onnxruntime.RunOptions | None,
    ) -> list[NDArray[np.float32]]:
        """Experimental: input and outputs are bound, so only the requested outputs are copied."""
        binding = self._session.io_binding()
        binding.bind_cpu_input(MODEL_INPUT, np.ascontiguousarray(images))
        for name in names:
            binding.bind_output(name, *device)
        self._session.run_with_iobinding(binding, options)
        return list(binding.copy_outputs_to_cpu())

    def _pad(self, images: Pixels) -> Pixels:
        size = next((size for size in self._batch_sizes if size >= len(images)), len(images))
        if size == len(images):
            return images
        return np.concatenate(
            [images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)]
        )

    def _check_signature(self, model_input: Input) -> None:
        inputs = [
            (entry.name, entry.type, list(entry.shape)) for entry in self._session.get_inputs()
        ]
        image = [model_input.height, model_input.width, 3]
        valid = (
            [(name, kind, shape[1:]) for name, kind, shape in inputs]
            == [(model_input.name, "tensor(uint8)", image)]
        ) and not isinstance(inputs[0][2][0], int)
        if not valid:
            raise ModelRunError(
                f"the model's input must be {model_input.name}: tensor(uint8) "
                f"[batch, {model_input.height}, {model_input.width}, 3] with a dynamic batch; "
                f"it is {_describe_inputs(inputs)}"
            )
        found = {
            entry.name: (entry.type, list(entry.shape)) for entry in self._session.get_outputs()
        }
        ranks = {self._outputs.logits: 2}
        if self._outputs.features:
            ranks[self._outputs.features] = 4
        if self._outputs.embedding:
            ranks[self._outputs.embedding] = 2
        if not ranks.keys() <= found.keys():
            raise ModelRunError(
                f"the model must have the outputs {sorted(ranks)}; it has {sorted(found)}"
            )
        for name, rank in ranks.items():
            kind, shape = found[name]
            if kind != "tensor(float)" or len(shape) not in {0, rank}:  # 0: the rank is not known
                raise ModelRunError(
                    f"the model's output {name} must be a tensor(float) with {rank} dimensions; "
                    f"it is {kind} {shape}"
                )
        if self._outputs.embedding:
            self.embedding_dims = _embedding_dims(self._outputs.embedding, found)


def probabilities(
    scores: Logits, outputs: Outputs, temperature: float = 1.0
) -> NDArray[np.float32]:
    """Probabilities of each class.

    Args:
        scores: float32 `[batch, classes]`, as `Session.run` returns them.
        outputs: Says whether the scores are logits; probabilities are returned unchanged.
        temperature: Divides the logits before the softmax.

    Returns:
        float32 `[batch, classes]`, each row sums to 1.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
    """
    if outputs.kind == "probabilities":
        return scores
    scaled = scores / np.float32(temperature)
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True), dtype=np.float32)


def _load(
    path: Path, options: SessionOptions, digest: str | None, open_model: OpenModel | None
) -> onnxruntime.InferenceSession:
    opening: OpenModel = open_model or (lambda: nullcontext(path))
    if options.graphs and digest and tuple(options.providers) == (CPU,):
        return options.graphs.open(opening, digest, partial(_settings, options))
    engines = engine_directory(options.engines, digest) if options.engines and digest else None
    each_options = [
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
    # With fallback ONNX Runtime would print an error and continue without the provider.
    with opening() as opened:
        return onnxruntime.InferenceSession(
            opened,
            _settings(options),
            providers=list(options.providers),
            provider_options=each_options,
            enable_fallback=0,
        )


def _settings(options: SessionOptions) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.intra_op_num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _LOG_ERRORS if options.log_errors else _LOG_FATAL
    settings.add_session_config_entry(
        "session.intra_op.allow_spinning", str(int(options.allow_spinning))
    )
    return settings


def _embedding_dims(name: str, found: Mapping[str, tuple[str, list[Any]]]) -> int:
    _, shape = found[name]
    if len(shape) != 2 or not isinstance(shape[1], int):
        raise ModelRunError(
            f"the model's output {name} must state its shape as [batch, dims]; it is {shape}"
        )
    return shape[1]


def _describe_inputs(inputs: Sequence[tuple[str, str, Sequence[Any]]]) -> str:
    return "; ".join(f"{name}: {kind} {list(shape)}" for name, kind, shape in inputs) or "none"


def _first_line(error: Exception, model: Path | None = None) -> str:
    """The first line of a message, with this machine's paths shortened to file names."""
    line = str(error).split("\n", 1)[0]
    if model:  # its path may contain spaces
        line = line.replace(str(model), model.name).replace(f"{model.parent}/", "")
    return printable(_ABSOLUTE_PATH.sub(_hide_directories, line)[:300])


def _hide_directories(match: re.Match[str]) -> str:
    """Keep names of graph nodes, which look like paths: `/layer1/conv/Conv`."""
    path = match.group()
    top = path.split("/", 2)[1]
    is_node_name = top != _BUILD_DIRECTORY and not os.path.lexists(f"/{top}")
    return path if is_node_name else path.rsplit("/", 1)[1]
