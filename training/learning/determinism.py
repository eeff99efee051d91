"""What a run's bits depend on beside its configuration: threads, CPU instructions, memory format, compilation, torch build.

On the same five, a resumed run continues to the same bits; each of the five changes them (PyTorch's note on
reproducibility; measured in ../docs/training.md).
"""

import ctypes
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final, Literal

import torch

from training.errors import RunError

PrecisionChoice = Literal["auto", "fp32", "bf16"]
CompileChoice = Literal["auto", "on", "off"]

_M_TRIM_THRESHOLD: Final = -1  # malloc.h of glibc
_M_MMAP_THRESHOLD: Final = -3
_ONE_GIBIBYTE: Final = 2**30


@dataclass(frozen=True)
class DeterminismInfo:
    """The five, and the device and arithmetic that go with them."""

    threads: int
    cpu_instructions: str
    memory_format: str
    compiled: bool
    torch_build: str
    device: str
    precision: str

    def differences(self, stored: dict[str, object]) -> list[str]:
        """What a checkpoint was written under and is not so here, each as 'name: then -> now'."""
        now = asdict(self)
        return [
            f"{name.replace('_', ' ')}: {stored.get(name)} -> {now[name]}"
            for name in now
            if stored.get(name) != now[name]
        ]


def determinism_info(device: torch.device, precision: str, *, compiled: bool) -> DeterminismInfo:
    """The environment of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return DeterminismInfo(
        threads=torch.get_num_threads(),
        cpu_instructions=torch.backends.cpu.get_cpu_capability(),
        memory_format="channels_last",
        compiled=compiled,
        torch_build=f"{torch.__version__} ({torch.version.git_version})",
        device=name,
        precision=precision,
    )


def choose_precision(choice: PrecisionChoice, device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the hardware computes it: on a CPU with AVX2 alone it is ten times slower. Raises RunError for it there."""
    in_hardware = has_bf16(device)
    if choice == "bf16" and not in_hardware:
        raise RunError(
            f"{device.type} has no bf16 arithmetic here, where it would be ten times slower; use --precision fp32"
        )
    return "bf16" if in_hardware and choice != "fp32" else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def choose_compile(choice: CompileChoice, device: torch.device) -> bool:
    """`auto` compiles on a GPU. On CPUs it gave nothing to 4 % after a minute of compiling, and other bits, so it is off there.

    Raises RunError where it is asked for and no C++ compiler is there.
    """
    if (
        choice == "on"
        and device.type == "cpu"
        and not (shutil.which("g++") or shutil.which("clang++"))
    ):
        raise RunError(
            "--compile on needs a C++ compiler (g++), and there is none; install one or leave it off"
        )
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def keep_freed_memory() -> None:
    """Let glibc's malloc keep what is freed; elsewhere nothing happens.

    Each step asks for activations of the sizes of the step before. By default they go back to the kernel in between and come
    again page by page, zeroed: a fifth of a step on a CPU (LOG.md). No bit depends on it.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _ONE_GIBIBYTE)
        mallopt(_M_TRIM_THRESHOLD, _ONE_GIBIBYTE)
