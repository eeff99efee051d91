"""Execution providers: from the words of a setting to what ONNX Runtime is given, or an error that says what to install."""

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
AZURE: Final = "AzureExecutionProvider"
COMPILING: Final = frozenset({TENSORRT, COREML, MIGRAPHX})
"""Providers that compile anew for each shape of a batch, so batches are padded to a few sizes."""
NVIDIA: Final = frozenset({TENSORRT, CUDA})
"""Providers on NVIDIA's GPUs; CUDA too chooses its convolutions by shape."""
_WITH_ENGINES: Final = frozenset({TENSORRT, OPENVINO, COREML})
RUNS_A_GPU: Final = 2  # one copies while the other computes
INSTALL: Final[Mapping[str, str]] = {
    CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]', and NVIDIA's driver",
    TENSORRT: "pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt, and NVIDIA's driver",
    OPENVINO: "pip install onnxruntime-openvino",
    MIGRAPHX: "pip install onnxruntime-migraphx, and AMD's ROCm",
    "DmlExecutionProvider": "pip install onnxruntime-directml, on Windows",
    "QNNExecutionProvider": "pip install onnxruntime-qnn, on Snapdragon",
    COREML: "the onnxruntime package for macOS has it",
}
_OTHERWISE: Final = "an ONNX Runtime that was built with it"
_SUFFIX: Final = "ExecutionProvider"
_ONLY_FATAL: Final = 4
_SMALLEST_MODEL: Final = bytes.fromhex(  # x -> Identity -> y, float32 [1], opset 17
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142021011"
)
logger = logging.getLogger(__name__)


def known_words() -> tuple[str, ...]:
    """The words of the setting: `auto`, then ONNX Runtime's providers in lower case and without their suffix."""
    return (
        AUTO,
        *sorted(
            name.removesuffix(_SUFFIX).lower()
            for name in onnxruntime.get_all_providers()
            if name != AZURE
        ),
    )


def parse_providers(text: str) -> tuple[str, ...]:
    """ONNX Runtime's names of the words in a list with commas; none for `auto`. Raises ValueError that says which there are."""
    words = [word.strip() for word in text.split(",")]
    if [word.lower() for word in words] == [AUTO]:
        return ()
    by_word = {name.removesuffix(_SUFFIX).lower(): name for name in onnxruntime.get_all_providers()}
    names = []
    for word in words:
        name = by_word.get(word.lower().removesuffix(_SUFFIX.lower()))
        if name is None:
            raise ValueError(
                f"{word[:40]!r} is no execution provider; there are {', '.join(known_words())}"
            )
        if name == AZURE:
            raise ValueError(
                "azure runs operators of its own at an endpoint and no model here: the cpu would serve, so name cpu"
            )
        names.append(name)
    if CPU in names[:-1]:
        raise ValueError(
            "the cpu runs everything, so what stands behind it would never be used: name it last, or not at all"
        )
    return tuple(dict.fromkeys(names))


def find_providers(text: str) -> tuple[str, ...]:
    """What sessions are given for the setting, best first, the CPU last: it takes what the others can not.

    A provider that is named must be there and start. `auto` is CUDA where it starts, else the CPU. Raises ProviderError.
    """
    names = parse_providers(text)
    available = onnxruntime.get_available_providers()
    if not names:
        if CUDA not in available:
            return (CPU,)
        if reason := _why_not(CUDA):
            logger.warning(
                "this ONNX Runtime has CUDA, but it does not start, so the CPU serves: %s", reason
            )
            return (CPU,)
        return (CUDA, CPU)
    for name in names:
        word = name.removesuffix(_SUFFIX).lower()
        if name not in available:
            raise ProviderError(
                f"the ONNX Runtime that is installed has no {name} (it has {', '.join(available)}). For {word}: "
                f"{INSTALL.get(name, _OTHERWISE)}. Only one onnxruntime package may be installed: uninstall the other first"
            )
        if name != CPU and (reason := _why_not(name)):
            raise ProviderError(
                f"{name} does not start here: {reason}. It needs: {INSTALL.get(name, _OTHERWISE)}"
            )
    behind = (
        [CUDA] if TENSORRT in names and CUDA in available else []
    )  # what TensorRT can not run stays on the GPU
    return tuple(dict.fromkeys([*(name for name in names if name != CPU), *behind, CPU]))


def engines_of(engines: Path, digest: str) -> Path | None:
    """The directory for what is compiled of one model file, made for its owner alone; None, after a warning, where it can not be.

    TensorRT and CoreML name what they keep by the graph and not by its weights, so each file needs a directory of its own.
    """
    folder = engines / f"{digest}-{onnxruntime.__version__}"
    try:
        open_host_cache(engines.parent, engines.name)  # it may have been deleted since the start
        folder.mkdir(mode=OWNER_ONLY, exist_ok=True)
    except OSError as error:
        logger.warning("what is compiled here is not kept: %s", error)
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
    """How ONNX Runtime is to use a provider. `engines` is a directory for what the provider compiles.

    The options are those of https://onnxruntime.ai/docs/execution-providers/.
    """
    if name == CUDA:
        return {
            "device_id": str(device),
            "gpu_mem_limit": str(memory_bytes),
            "arena_extend_strategy": "kSameAsRequested",  # doubling keeps twice of the largest batch for ever (ort#14526)
            "cudnn_conv_algo_search": "HEURISTIC",  # exhaustive search stalls at every new shape (ort#19838)
            "use_tf32": "0",  # fp32 is what the golden proof holds it to; who wants speed serves fp16
        }
    if name == TENSORRT:
        # No profile of shapes: it would have to name the inputs of each part of the graph that TensorRT takes for itself.
        options = {"device_id": str(device), "trt_max_workspace_size": str(memory_bytes)}
        if engines:  # minutes of compiling, once a host
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines)}
            options |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(engines)}
        return options
    if name == OPENVINO:
        options = {
            "device_type": "CPU",
            "precision": "FP32",  # what the golden proof holds it to, whatever the CPU could do
            "num_streams": str(concurrent_runs),
            "num_of_threads": str(concurrent_runs * threads),
        }
        return options | ({"cache_dir": str(engines)} if engines else {})
    if name == COREML:
        options = {"ModelFormat": "MLProgram"}
        return options | ({"ModelCacheDirectory": str(engines)} if engines else {})
    if name == MIGRAPHX:
        return {"device_id": str(device)}
    return {}


def batch_sizes(providers: Sequence[str], max_batch_size: int) -> tuple[int, ...]:
    """The sizes that batches are padded to: powers of two where the first provider depends on the shape, else none."""
    if providers[0] not in COMPILING | NVIDIA:
        return ()
    return (
        *(2**power for power in range(max_batch_size.bit_length()) if 2**power < max_batch_size),
        max_batch_size,
    )


def keeps_engines(providers: Sequence[str]) -> bool:
    """Whether one of them compiles what is worth keeping for the next start."""
    return not _WITH_ENGINES.isdisjoint(providers)


def default_instances(providers: Sequence[str], cpus: int) -> int:
    """How many runs are worth having at once: one a CPU, or two a GPU."""
    return RUNS_A_GPU * count_devices(providers) if providers[0] in NVIDIA else cpus


def default_batch_size(providers: Sequence[str]) -> int:
    """The largest batch that is worth trying where nothing is set: on a CPU 32 images take no less each than 16, and longer."""
    return 16 if providers[0] == CPU else 32


def count_devices(providers: Sequence[str]) -> int:
    """How many GPUs the first provider has, by NVIDIA's driver, which follows CUDA_VISIBLE_DEVICES; 1 for all others."""
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


def _why_not(name: str) -> str | None:
    """Why a session on this provider would not run on it, if it would not: ONNX Runtime itself takes the CPU and says nothing."""
    if name in NVIDIA and hasattr(onnxruntime, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # what it prints, ONNX Runtime says again on stderr
            onnxruntime.preload_dlls()  # CUDA and cuDNN from NVIDIA's pip packages
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ONLY_FATAL
    try:
        session = onnxruntime.InferenceSession(
            _SMALLEST_MODEL, settings, providers=list(dict.fromkeys([name, CPU])), enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001  ONNX Runtime's own exceptions share no public base class
        return str(error).split("\n", 1)[0][:300]
    return (
        None
        if session.get_providers()[0] == name
        else "its libraries or its device can not be used"
    )
