"""The settings that `python -m service tune` found on this machine, one JSON file per model.

They are valid only for the same model files, CPU, number of CPUs and version of ONNX Runtime.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import onnxruntime
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from model_store.files import write_atomically
from model_store.graph_cache import cpu_description
from model_store.host_cache import check_owner, open_host_cache
from model_store.manifest import Precision
from model_store.names import Name
from model_store.validation import DeferredFrozenModel, Sha256, describe_validation_error
from model_store.version import Version

FOLDER: Final = "tuning"
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_VALUE: Final = 4096
SETTING_NAMES: Final = ("instances", "intra_op_num_threads", "max_batch_size", "precision")
MEASURED_TOGETHER: Final = frozenset({"instances", "intra_op_num_threads"})
Mode = Literal["throughput", "latency"]
logger = logging.getLogger(__name__)


class TuningKey(DeferredFrozenModel):
    """What tuned settings are valid for. `files` has the sha256 of each variant by precision."""

    model: Name
    files: Mapping[Precision, Sha256]
    cpu: str
    cpus: Annotated[int, Field(ge=1)]
    onnxruntime: str

    @classmethod
    def of(cls, version: Version, cpus: int) -> Self:
        sealed = {entry.path: entry.sha256 for entry in version.manifest.files}
        files = {variant.precision: sealed[variant.file] for variant in version.manifest.variants}
        return cls(
            model=version.model,
            files=files,
            cpu=cpu_description(),
            cpus=cpus,
            onnxruntime=onnxruntime.__version__,
        )


class TunedPerformance(DeferredFrozenModel):
    """What the settings achieved: under full load, and for one client alone (`alone_ms`)."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    in_flight: int
    alone_ms: float


class TunedSettings(DeferredFrozenModel):
    key: TuningKey
    mode: Mode
    asked_p99_ms: float | None = None
    instances: Annotated[int, Field(ge=1, le=MAX_VALUE)]
    intra_op_num_threads: Annotated[int, Field(ge=1, le=MAX_VALUE)]
    max_batch_size: Annotated[int, Field(ge=1, le=MAX_VALUE)]
    precision: Precision
    measured: TunedPerformance
    measured_at: AwareDatetime

    @model_validator(mode="after")
    def _check_threads(self) -> Self:
        if self.instances * self.intra_op_num_threads > MAX_VALUE:
            raise ValueError(f"instances x intra_op_num_threads must be at most {MAX_VALUE}")
        return self

    def __str__(self) -> str:
        return " ".join(f"{name}={getattr(self, name)}" for name in SETTING_NAMES)


@dataclass(frozen=True)
class TunedSettingsLookup:
    """Finds tuned settings in a cache directory for `cpus` CPUs.

    `fixed` names the settings that the user has set; they are never overridden. Instances and
    threads were measured together, so fixing one of them fixes both. They are divided among
    `workers`.
    """

    cache: Path
    cpus: int
    fixed: Collection[str] = ()
    workers: int = 1

    def values_for(self, version: Version, *, log: bool = True) -> dict[str, Any]:
        """Tuned values by setting name, without the fixed ones; empty without tuned settings."""
        tuned = find_tuned_settings(self.cache, version, self.cpus, log=log)
        if tuned is None:
            return {}
        fixed = set(self.fixed)
        if fixed & MEASURED_TOGETHER:
            fixed |= MEASURED_TOGETHER
        parts = {
            "instances": ceil(tuned.instances / self.workers),
            "intra_op_num_threads": min(tuned.intra_op_num_threads, ceil(self.cpus / self.workers)),
        }
        values = {name: getattr(tuned, name) for name in SETTING_NAMES} | parts
        return {name: value for name, value in values.items() if name not in fixed}


def find_tuned_settings(
    cache: Path, version: Version, cpus: int, *, log: bool = True
) -> TunedSettings | None:
    """Read the tuned settings of this version for this machine; None if there are none.

    Settings that are unreadable, writable by other users or measured on another machine are
    ignored. A warning is logged, unless `log` is false.
    """
    try:
        for folder in (cache, cache / FOLDER):
            check_owner(folder)
        with (cache / FOLDER / f"{version.model}.json").open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        return parse_tuned_settings(data, version, cpus)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = f"the file cannot be read: {error.strerror or error}"
    except ValueError as error:
        reason = str(error)
    if log:
        logger.warning("tuned settings ignored model=%s reason=%s", version.model, reason)
    return None


def parse_tuned_settings(data: bytes, version: Version, cpus: int) -> TunedSettings:
    """Parse a file of tuned settings.

    Raises:
        ValueError: The data is not valid, or was measured for another version or machine.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        tuned = TunedSettings.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(describe_validation_error(error)) from None
    here = TuningKey.of(version, cpus)
    fields = TuningKey.model_fields
    if differing := [name for name in fields if getattr(tuned.key, name) != getattr(here, name)]:
        raise ValueError(
            f"they were measured with a different {', '.join(differing)}; "
            f"run `python -m service tune {version.model}` to measure again"
        )
    return tuned


def write_tuned_settings(cache: Path, tuned: TunedSettings) -> Path:
    """Write the file that `find_tuned_settings` reads, atomically. Raises OSError."""
    path = open_host_cache(cache, FOLDER) / f"{tuned.key.model}.json"
    write_atomically(path, tuned.model_dump_json(indent=2).encode() + b"\n")
    return path
