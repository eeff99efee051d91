"""What `python -m service tune` has chosen for a model on this machine, as the service finds it again: one JSON file a model.

A choice is worth something only where it was measured, so it is keyed by the model's files, the CPU, how many of them there are,
and ONNX Runtime's version; one that was made for anything else is ignored, and said so.
"""

import logging
import platform
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import onnxruntime
from pydantic import AwareDatetime, Field, ValidationError

from model_store.host_cache import open_host_cache
from model_store.manifest import Block, Name, Precision, Sha256
from model_store.version import Version

FOLDER: Final = "tuning"
MOST: Final = 4096
SETTINGS: Final = ("instances", "intra_op_num_threads", "max_batch_size", "precision")
_CPU_FIELDS: Final = ("model name", "flags", "Features", "CPU part")
TOGETHER: Final = frozenset({"instances", "intra_op_num_threads"})
Mode = Literal["throughput", "latency"]
logger = logging.getLogger(__name__)


class Key(Block):
    """What a choice holds for. `files` are the sha256 of the version's variants by precision."""

    model: Name
    files: Mapping[Precision, Sha256]
    cpu: str
    cpus: Annotated[int, Field(ge=1)]
    onnxruntime: str

    @classmethod
    def of(cls, version: Version, cpus: int) -> Self:
        """The key of this version here, with so many CPUs to use."""
        sealed = {entry.path: entry.sha256 for entry in version.manifest.files}
        files = {variant.precision: sealed[variant.file] for variant in version.manifest.variants}
        return cls(model=version.model, files=files, cpu=describe_cpu(), cpus=cpus, onnxruntime=onnxruntime.__version__)


class Measured(Block):
    """What the choice did when it was made: under its full load, and for one client alone."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    in_flight: int
    alone_ms: float


class Choice(Block):
    """Settings for one model on this machine."""

    key: Key
    mode: Mode
    asked_p99_ms: float | None = None
    instances: Annotated[int, Field(ge=1, le=MOST)]
    intra_op_num_threads: Annotated[int, Field(ge=1, le=MOST)]
    max_batch_size: Annotated[int, Field(ge=1, le=MOST)]
    precision: Precision
    measured: Measured
    measured_at: AwareDatetime

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in SETTINGS)


@dataclass(frozen=True)
class Tuning:
    """Where choices lie, for how many CPUs, and the settings that a person has set: those win, and threads go with instances."""

    cache: Path
    cpus: int
    fixed: Collection[str] = ()

    def values_for(self, version: Version) -> dict[str, Any]:
        """The chosen settings by name, without the fixed ones; empty where there is no choice for this version here."""
        choice = find_choice(self.cache, version, self.cpus)
        fixed = {*self.fixed, *(TOGETHER if TOGETHER.intersection(self.fixed) else ())}
        return {name: getattr(choice, name) for name in SETTINGS if name not in fixed} if choice else {}


def find_choice(cache: Path, version: Version, cpus: int) -> Choice | None:
    """The choice that was made for this version on a machine like this, with so many CPUs to use; None where there is none.

    One that can not be read, or holds for something else, is none, and the log says why. Raises nothing.
    """
    path = _path(cache, version.model)
    try:
        choice = Choice.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("what tune chose for %s can not be read: %s", version.model, error.strerror)
        return None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "document"
        logger.warning("what tune chose for %s is ignored: %s: %s", version.model, where, problem["msg"])
        return None
    here = Key.of(version, cpus)
    if differing := [name for name in Key.model_fields if getattr(choice.key, name) != getattr(here, name)]:
        logger.warning(
            "what tune chose for %s is ignored: it was measured with other %s; `python -m service tune %s` measures anew",
            version.model, " and other ".join(_SAID[name] for name in differing), version.model,
        )  # fmt: skip
        return None
    return choice


def write_choice(cache: Path, choice: Choice) -> Path:
    """Put the choice where `find_choice` finds it, in the place of an earlier one by one rename. Raises OSError."""
    path = _path(open_host_cache(cache, FOLDER).parent, choice.key.model)
    written = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        written.write_text(choice.model_dump_json(indent=2) + "\n")
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    return path


def describe_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and flags; where the system does not list them, what Python knows of it."""
    try:
        first = cpuinfo.read_text().split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    return "; ".join([platform.machine(), *(fields[name] for name in _CPU_FIELDS if name in fields)])


def _path(cache: Path, model: str) -> Path:
    return cache / FOLDER / f"{model}.json"


_SAID: Final = {
    "model": "models",
    "files": "model files",
    "cpu": "processors",
    "cpus": "numbers of CPUs",
    "onnxruntime": "versions of ONNX Runtime",
}
