"""The directory of a run: one file per result, each replaced atomically.

::

    runs/<run id>/
      config.json          the configuration
      check.json           findings about the data, and the excluded images
      split.csv            the split of each image
      start.safetensors    initial weights, if the run has any
      previous.safetensors weights of the version that the run retrains
      known_images.npy     images that the initial weights were trained on
      trained_images.npy   those images and the training images of this run
      checkpoint.pt        the newest training state, to resume from
      metrics.jsonl        one line per epoch
      best.safetensors     weights of the epoch that the recipe selects
      last.safetensors     weights at the end of training
      evaluation.json, evaluation.npz   figures and logits of the test split
      calibration.json     temperature, energy threshold, conformal thresholds
      report.html          the report
      published_report.html  the report for the published version
      model.onnx           the export
      golden/              golden images, their pixels, golden.json
      gates.json           results of all checks
      published.json       the published version
"""

import json
import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from model_store.command_line import as_called
from model_store.files import DirectoryLock, write_atomically
from model_store.manifest import now
from training.errors import RunError
from training.run.config import RunConfig

CONFIG_FILE: Final = "config.json"


class RunDirectory:
    """The files of a run. Missing and damaged files raise RunError with the name of the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def file(self, name: str, step: str) -> Path:
        """Return the path of a file. Raises RunError if `step`, which writes it, has not run."""
        path = self.path / name
        if not path.exists():
            command = f"{as_called(f'training {step}')} {self.path}"
            raise RunError(f"{self.path} has no {name}; run `{command}` first")
        return path

    def read_json(self, name: str, step: str) -> Any:
        """Return the values of a JSON file. Raises RunError if it is missing or damaged."""
        try:
            return json.loads(self.file(name, step).read_bytes())
        except ValueError as error:
            raise damaged_file_error(self.path / name, error) from None

    def write_json(self, name: str, values: Any) -> None:
        """Replace a JSON file. NaN and infinity, which JSON does not have, become null."""
        text = json.dumps(finite_or_null(values), indent=2, allow_nan=False)
        self.write(name, text.encode() + b"\n")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replace a file in one step. Raises RunError, and keeps the old file, if that fails."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        try:
            write_atomically(target, data)
        except OSError as error:
            raise RunError(
                f"{target} cannot be written: {error.strerror}. The previous file is unchanged"
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the directory. Raises RunError if another process holds it."""
        try:
            lock = DirectoryLock(self.path, exclusive=True)
        except BlockingIOError:
            raise RunError(f"another process is working on {self.path}") from None
        try:
            yield
        finally:
            lock.release()


class Run(RunDirectory):
    """The directory of a run with its configuration. `config.json` is parsed once, by `open`.

    Attributes:
        config: The configuration.
        is_moved: Whether `config` has new places of the data, which `config.json` does not state.
    """

    def __init__(self, path: Path, config: RunConfig, *, is_moved: bool = False) -> None:
        super().__init__(path)
        self.config = config
        self.is_moved = is_moved

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read `config.json`. Raises RunError if it is missing or damaged."""
        try:
            config = RunConfig.model_validate_json((path / CONFIG_FILE).read_bytes())
        except FileNotFoundError:
            raise RunError(f"{path} is not a run: it has no {CONFIG_FILE}") from None
        except ValidationError as error:
            raise damaged_file_error(path / CONFIG_FILE, error) from None
        return cls(path, config)

    def with_data(self, data: tuple[str, ...], data_dir: str | None) -> Self:
        """Return the run with new places of its data. `write_config` makes them permanent."""
        changes = {"data": data, "data_dir": data_dir}
        return type(self)(self.path, self.config.model_copy(update=changes), is_moved=True)

    def write_config(self) -> None:
        """Write `config` to `config.json`."""
        self.write(CONFIG_FILE, self.config.model_dump_json(indent=2).encode() + b"\n")
        self.is_moved = False

    @classmethod
    def create(cls, runs: Path, config: RunConfig) -> Self:
        """Create a run in a new directory under `runs`; the name of the directory is its id."""
        run_id = f"{config.model}-{now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        return cls.create_at(runs / run_id, config)

    @classmethod
    def create_at(cls, path: Path, config: RunConfig) -> Self:
        """Create a run in this directory, which may exist."""
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, config)
        run.write_config()
        return run


def finite_or_null(values: Any) -> Any:
    """Return JSON values with None for each float that is NaN or infinite."""
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, dict):
        return {name: finite_or_null(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite_or_null(value) for value in values]
    return values


def damaged_file_error(path: Path, error: Exception) -> RunError:
    """Return the error for a file that exists but cannot be read."""
    return RunError(f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}")
