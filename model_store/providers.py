"""ONNX Runtime's execution providers: which one a setting means, whether it starts, its options.

*Experimental*: CUDA, TensorRT, CoreML and MIGraphX have never run on their hardware; tests check
only that a missing provider is reported. The CPU is supported. OpenVINO has passed the golden
proofs of the built-in models on a CPU. For the options see
https://onnxruntime.ai/docs/execution-providers/.
"""

import ctypes
import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import onnxruntime

from model_store.errors import ProviderError
from model_store.host_cache import OWNER_ONLY, open_host_cache

AUTO: Final = "auto"
CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
OPENVINO: Final = "OpenVINOExecutionProvider"
COREML: Final = "CoreMLExecutionProvider"
MIGRAPHX: Final = "MIGraphXExecutionProvider"
EXPERIMENTAL: Final = frozenset({CUDA, TENSORRT, COREML, MIGRAPHX})
NVIDIA: Final = frozenset({TENSORRT, CUDA})
INSTALL: Final[Mapping[str, str]] = {
    CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]', and NVIDIA's driver",
    TENSORRT: "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt, and NVIDIA's driver",
    OPENVINO: "pip install onnxruntime-openvino",
    MIGRAPHX: "pip install onnxruntime-migraphx, and AMD's ROCm",
    COREML: "the onnxruntime package for macOS includes it",
}
_SPECIALIZED_BY_SHAPE: Final = frozenset({TENSORRT, CUDA, COREML, MIGRAPHX})
_KEEPS_ENGINES: Final = frozenset({TENSORRT, OPENVINO})
_RUNS_NO_MODELS: Final = "AzureExecutionProvider"  # starts, and then everything runs on the CPU
_SUFFIX: Final = "ExecutionProvider"
_LOG_FATAL_ONLY: Final = 4
_PROBE_MODEL: Final = bytes.fromhex(  # x -> Identity -> y, float32 [1], opset 17
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179"
    "120a0a08080112040a02080142021011"
)
logger = logging.getLogger(__name__)


def parse_providers(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of providers, such as `openvino,cpu`.

    Args:
        text: Names as ONNX Runtime has them, in any case, with or without `ExecutionProvider`.

    Returns:
        ONNX Runtime's names, best first, each once; none for `auto`.

    Raises:
        ValueError: A name is unknown, or `cpu` is not the last one.
    """
    words = [word.strip().lower().removesuffix(_SUFFIX.lower()) for word in text.split(",")]
    if words == [AUTO]:
        return ()
    known = {
        name.removesuffix(_SUFFIX).lower(): name
        for name in onnxruntime.get_all_providers()
        if name != _RUNS_NO_MODELS
    }
    for word in words:
        if word not in known:
            expected = ", ".join([AUTO, *sorted(known)])
            raise ValueError(f"unknown execution provider {word[:40]!r}; expected {expected}")
    names = tuple(dict.fromkeys(known[word] for word in words))
    if CPU in names[:-1]:
        raise ValueError("`cpu` must be the last provider, because it runs every model itself")
    return names


def has_cpu_providers_only() -> bool:
    """Whether the installed ONNX Runtime has providers for CPUs only."""
    return {CPU, _RUNS_NO_MODELS}.issuperset(onnxruntime.get_available_providers())


def find_providers(text: str) -> tuple[str, ...]:
    """Return the providers for sessions, best first and the CPU last. Each is started once.

    `auto` is CUDA if it starts, else the CPU. A provider that is named must start. The CPU runs the
    operators that the others cannot, and CUDA those that TensorRT cannot.

    Raises:
        ProviderError: A named provider is not installed or does not start. The message says what to
            install.
    """
    available = onnxruntime.get_available_providers()
    names = parse_providers(text)
    if not names:
        if CUDA not in available:
            return (CPU,)
        if reason := _start_error(CUDA):
            logger.warning("CUDA is installed but does not start, so the CPU is used: %s", reason)
            return (CPU,)
        names = (CUDA,)
    for name in names:
        _check_starts(name, available)
        if name in EXPERIMENTAL:
            logger.warning("%s is experimental: it was never run on its hardware", name)
    fallback = [CUDA] if TENSORRT in names and CUDA in available else []
    return tuple(dict.fromkeys([*(name for name in names if name != CPU), *fallback, CPU]))


def engine_directory(engines: Path, digest: str) -> Path | None:
    """Return the directory for engines compiled from one model file, created if it is missing.

    Each file needs its own, because TensorRT names engines by the graph and not by its weights.

    Args:
        engines: The directory `engines` of the host's cache.
        digest: sha256 of the model file, in hex.

    Returns:
        The directory, or None, after a warning, if it cannot be created.
    """
    folder = engines / f"{digest}-{onnxruntime.__version__}"
    try:
        open_host_cache(engines.parent, engines.name)  # may have been deleted since the start
        folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
    except OSError as error:
        logger.warning("compiled engines are not kept: %s", error)
        return None
    return folder


def provider_options(
    name: str,
    *,
    device: int,
    threads: int,
    concurrent_runs: int,
    memory_bytes: int,
    engines: Path | None,
) -> dict[str, str]:
    """Return the options that ONNX Runtime is given for a provider.

    Args:
        name: ONNX Runtime's name.
        device: Index of the GPU.
        threads: Threads of one run (OpenVINO).
        concurrent_runs: Runs to expect at once (OpenVINO).
        memory_bytes: Limit of the GPU memory that one session takes (CUDA, TensorRT).
        engines: Directory for what the provider compiles, or None to compile at each start.
    """
    if name == CUDA:
        return {
            "device_id": str(device),
            "gpu_mem_limit": str(memory_bytes),
            "arena_extend_strategy": "kSameAsRequested",  # doubling wastes memory (ort#14526)
            "cudnn_conv_algo_search": "HEURISTIC",  # exhaustive stalls at each shape (ort#19838)
            "use_tf32": "0",  # the golden proof expects fp32
        }
    if name == TENSORRT:
        options = {"device_id": str(device), "trt_max_workspace_size": str(memory_bytes)}
        cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
        return options | (cache if engines else {})
    if name == OPENVINO:
        options = {
            "device_type": "CPU",
            "precision": "FP32",  # the golden proof expects fp32
            "num_streams": str(concurrent_runs),
            "num_of_threads": str(concurrent_runs * threads),
        }
        return options | ({"cache_dir": str(engines)} if engines else {})
    return {}


def batch_sizes(providers: Sequence[str], max_batch_size: int) -> tuple[int, ...]:
    """Return the sizes to pad batches to: powers of two up to `max_batch_size`.

    Empty for providers that do not specialize by shape, because they take any size.
    """
    if providers[0] not in _SPECIALIZED_BY_SHAPE:
        return ()
    powers = (2**power for power in range(max_batch_size.bit_length()))
    return (*(size for size in powers if size < max_batch_size), max_batch_size)


def keeps_engines(providers: Sequence[str]) -> bool:
    """Whether one of the providers compiles engines that are kept for the next start."""
    return not _KEEPS_ENGINES.isdisjoint(providers)


def default_instances(providers: Sequence[str], cpus: int) -> int:
    """How many runs to allow at once: one per CPU; two per GPU, to overlap copies."""
    return 2 * count_devices(providers) if providers[0] in NVIDIA else cpus


def default_batch_size(providers: Sequence[str]) -> int:
    """The largest batch by default. On a CPU, 32 images take as long per image as 16 do."""
    return 16 if providers[0] == CPU else 32


def count_devices(providers: Sequence[str]) -> int:
    """How many GPUs NVIDIA's driver shows, after `CUDA_VISIBLE_DEVICES`; else 1."""
    if providers[0] not in NVIDIA:
        return 1
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 1
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 1
    return max(1, count.value)


def describe_devices(providers: Sequence[str]) -> tuple[str, ...]:
    """NVIDIA's driver version and the name of each GPU; empty for other providers."""
    if providers[0] not in NVIDIA or not (count := count_devices(providers)):
        return ()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    version, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    driver.cuDriverGetVersion(ctypes.byref(version))
    names = []
    for device in range(count):
        driver.cuDeviceGetName(name, len(name), device)
        names.append(name.value.decode(errors="replace"))
    return (f"driver {version.value}", *names)


def _check_starts(name: str, available: Sequence[str]) -> None:
    install = INSTALL.get(name, f"a build of ONNX Runtime with {name}")
    if name not in available:
        raise ProviderError(
            f"{name} is not part of the installed ONNX Runtime, which has {', '.join(available)}. "
            f"Uninstall that package first, then install: {install}"
        )
    if name != CPU and (reason := _start_error(name)):
        raise ProviderError(f"{name} does not start: {reason}. It needs: {install}")


def _start_error(name: str) -> str | None:
    """Why a session would not run on this provider; ONNX Runtime would use the CPU silently."""
    if name in NVIDIA and hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # the same text appears again on stderr
            onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's pip packages
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _LOG_FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(
            _PROBE_MODEL, settings, providers=list(dict.fromkeys([name, CPU])), enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no public base class
        return str(error).split("\n", 1)[0][:300]
    if session.get_providers()[0] != name:
        return "its libraries or its device are missing"
    return None
