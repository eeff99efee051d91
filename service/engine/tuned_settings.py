"""What `python -m service tune` has chosen for a model on this machine: one JSON file a model.

A choice is worth something only where it was measured, so it is keyed by the model's files, the CPU, how many of them there are,
and ONNX Runtime's version.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import onnxruntime
from pydantic import AwareDatetime, Field, ValidationError, model_validator

from model_store.files import write_atomically
from model_store.graph_cache import cpu_description
from model_store.host_cache import open_host_cache
from model_store.manifest import Block, Name, Precision, Sha256
from model_store.version import Version
from service.engine.tuned_settings_lookup import FOLDER, SETTINGS

MOST: Final = 4096
_SAID: Final = {
    "model": "models",
    "files": "model files",
    "cpu": "processors",
    "cpus": "numbers of CPUs",
    "onnxruntime": "versions of ONNX Runtime",
}
Mode = Literal["throughput", "latency"]


class TuningKey(Block):
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
        return cls(
            model=version.model,
            files=files,
            cpu=cpu_description(),
            cpus=cpus,
            onnxruntime=onnxruntime.__version__,
        )


class TunedPerformance(Block):
    """What the choice did when it was made: under its full load, and for one client alone."""

    images_per_second: float
    p50_ms: float
    p99_ms: float
    in_flight: int
    alone_ms: float


class TunedSettings(Block):
    """Settings for one model on this machine."""

    key: TuningKey
    mode: Mode
    asked_p99_ms: float | None = None
    instances: Annotated[int, Field(ge=1, le=MOST)]
    intra_op_num_threads: Annotated[int, Field(ge=1, le=MOST)]
    max_batch_size: Annotated[int, Field(ge=1, le=MOST)]
    precision: Precision
    measured: TunedPerformance
    measured_at: AwareDatetime

    @model_validator(mode="after")
    def _check_threads(self) -> Self:
        if self.instances * self.intra_op_num_threads > MOST:
            raise ValueError(f"instances x intra_op_num_threads is more than {MOST}")
        return self

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name)}" for name in SETTINGS)


def parse_tuned_settings(data: bytes, version: Version, cpus: int) -> TunedSettings:
    """The choice that these bytes hold. Raises ValueError where they hold none, or one for another version or machine."""
    try:
        choice = TunedSettings.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ValueError(
            f"{'.'.join(str(part) for part in problem['loc']) or 'document'}: {problem['msg']}"
        ) from None
    here = TuningKey.of(version, cpus)
    if differing := [
        said for name, said in _SAID.items() if getattr(choice.key, name) != getattr(here, name)
    ]:
        others = " and other ".join(differing)
        raise ValueError(
            f"it was measured with other {others}; `python -m service tune {version.model}` measures anew"
        )
    return choice


def write_tuned_settings(cache: Path, choice: TunedSettings) -> Path:
    """Put the choice where `find_tuned_settings` finds it, in the place of an earlier one by one rename. Raises OSError."""
    path = open_host_cache(cache, FOLDER) / f"{choice.key.model}.json"
    write_atomically(path, choice.model_dump_json(indent=2).encode() + b"\n")
    return path
