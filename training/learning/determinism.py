"""Properties of the machine and the process that bit-identical training depends on.

A resumed run is bit-identical to an uninterrupted one if threads, CPU instructions, memory format,
compilation and torch build are unchanged. Each of the five changes the result; see
docs/explanation/training-runs.md and https://docs.pytorch.org/docs/stable/notes/randomness.html.
"""

import ctypes
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Literal

import torch

from training.errors import RunError
from training.learning.recipe import CompileChoice, PrecisionChoice

_M_TRIM_THRESHOLD: Final = -1  # from glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
_ONE_GIBIBYTE: Final = 2**30


@dataclass(frozen=True)
class DeterminismInfo:
    """Everything outside the configuration that changes the bits of a training.

    It is stored in checkpoints under `environment`; the field names are part of that format.
    """

    threads: int
    cpu_instructions: str
    memory_format: str
    compiled: bool
    torch_build: str
    device: str
    precision: str

    def differences(self, stored: dict[str, object]) -> list[str]:
        """Return how a checkpoint's environment differs from this one, as `name: then -> now`."""
        now = asdict(self)
        return [
            f"{name.replace('_', ' ')}: {stored.get(name)} -> {now[name]}"
            for name in now
            if stored.get(name) != now[name]
        ]


def determinism_info(device: torch.device, precision: str, *, compiled: bool) -> DeterminismInfo:
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return DeterminismInfo(
        threads=torch.get_num_threads(),
        cpu_instructions=torch.backends.cpu.get_cpu_capability(),
        memory_format="channels_last",
        compiled=compiled,
        torch_build=f"{torch.__version__} ({torch.version.git_version})",
        device=device_name,
        precision=precision,
    )


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Literal["fp32", "bf16"]:
    """Choose bf16 if the hardware supports it: emulated on AVX2 it is ten times slower than fp32.

    Raises:
        RunError: bf16 is requested and not supported.
    """
    is_supported = has_bf16(device)
    if choice == "bf16" and not is_supported:
        raise RunError(
            f"this {device.type} has no bf16 instructions, and emulation is ten times slower; "
            "use --precision fp32"
        )
    return "bf16" if is_supported and choice != "fp32" else "fp32"


def has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_compile(choice: CompileChoice, device: torch.device) -> bool:
    """Choose whether to compile the network: `auto` compiles on GPUs only.

    On CPUs a minute of compilation saves 0 to 4 % of a step and changes the bits.

    Raises:
        RunError: Compilation is requested on a CPU and there is no C++ compiler.
    """
    has_compiler = bool(shutil.which("g++") or shutil.which("clang++"))
    if choice == "on" and device.type == "cpu" and not has_compiler:
        raise RunError("--compile on needs a C++ compiler: install g++, or use --compile off")
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep freed memory; with other C libraries, do nothing.

    Each step allocates activations of the same sizes. By default glibc returns them to the kernel
    in between, and page faults take a fifth of a step on a CPU (training/LOG.md).
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _ONE_GIBIBYTE)
        mallopt(_M_TRIM_THRESHOLD, _ONE_GIBIBYTE)
