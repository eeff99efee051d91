"""A run's directory: what each step left, written so that a crash leaves the old content or the new one.

::

    runs/<run id>/
      config.json        what was asked for
      check.json         what was found in the data, and what was left out
      split.csv          which image is in which split
      checkpoint.pt      the newest state, to resume from
      metrics.jsonl      one line an epoch
      best.safetensors   the epoch that validation chose
      last.safetensors   the end of the training
      evaluation.json, evaluation.npz  the test split, opened once
      calibration.json   temperature, abstention, label sets, with what they do on test
      report.html        all of it, to look at
      model.onnx         the export
      golden/            images, pixels, golden.json
      gates.json         what every check found
      published.json     where it went
"""

import json
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.files import DirectoryLock, write_atomically
from model_store.manifest import Preprocessing, now
from model_store.provenance import VersionReference
from training.errors import RunError
from training.learning.determinism import CompileChoice, PrecisionChoice
from training.learning.recipe import Recipe


class RunConfig(BaseModel):
    """What a run was asked for, and what it was begun with."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    data: tuple[str, ...]
    data_dir: str | None = None
    class_names: tuple[str, ...] | None = None
    """The order of the classes where a model that this run goes on from has given it."""
    architecture: str
    preprocessing: Preprocessing
    recipe_name: str
    recipe: Recipe
    changes: tuple[str, ...] = ()
    seed: int
    start: str | None = None
    """The weights that the run begins with: `torchvision`, a file, or MODEL/VERSION of the store."""
    derived_from: VersionReference | None = None
    precision: PrecisionChoice = "auto"
    compile: CompileChoice = "auto"
    golden_samples: Annotated[int, Field(ge=0)] = 5
    """Images of the validation split that go into the version for its golden proof; 0 where they may not be given away."""
    golden_images: tuple[str, ...] = ()
    """Files of the person's own that go into the version for its golden proof."""
    keep_checkpoint: bool = True
    """Whether the version holds the weights to retrain from."""
    git_commit: str | None = None
    packages: dict[str, str] = {}

    @property
    def trained_as(self) -> dict[str, Any]:
        """The values that the weights depend on: a resumed run must have the same ones."""
        untold = {
            "model",
            "git_commit",
            "packages",
            "golden_samples",
            "golden_images",
            "keep_checkpoint",
            "recipe_name",
            "changes",
            "data_dir",
        }
        return self.model_dump(mode="json", exclude=untold)

    @property
    def command(self) -> str:
        """What to type to train the same again; where data, runs and store lie is the reader's own."""
        words = ["python", "-m", "training"]
        if self.derived_from:
            words += ["retrain", str(self.start)]
        else:
            words += [
                "run",
                "--arch",
                self.architecture,
                "--image-size",
                str(self.preprocessing.crop_height),
                "--model",
                self.model,
            ]
            if self.start:
                words += [
                    "--start",
                    Path(self.start).name if Path(self.start).suffix else self.start,
                ]
        for data in self.data:
            words += ["--data", Path(data).name]
        words += ["--recipe", Path(self.recipe_name).name]
        for change in self.changes:
            words += ["--set", change]
        return shlex.join([*words, "--seed", str(self.seed)])


class RunDirectory:
    """One run on disk. What a step has not written yet, and what is damaged, is a RunError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, runs: Path, config: RunConfig) -> Self:
        """Make a new directory for a run under `runs`; its name is the run's id."""
        run = cls(runs / f"{config.model}-{now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        run.path.mkdir(parents=True)
        run.write_config(config)
        return run

    @property
    def run_id(self) -> str:
        """The directory's name."""
        return self.path.name

    def write_config(self, config: RunConfig) -> None:
        """Keep what the run was asked for."""
        self.write("config.json", config.model_dump_json(indent=2).encode() + b"\n")

    def config(self) -> RunConfig:
        """What the run was asked for."""
        path = self.path / "config.json"
        try:
            return RunConfig.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path} has no config.json, so it is no run") from None
        except ValidationError as error:
            raise damaged(path, error) from None

    def has(self, name: str) -> bool:
        """Whether a step has left this artefact."""
        return (self.path / name).exists()

    def file(self, name: str, step: str) -> Path:
        """The path of an artefact. Raises RunError where `step` has not run."""
        path = self.path / name
        if not path.exists():
            raise RunError(
                f"{self.path} has no {name}; run `python -m training {step}` on it first"
            )
        return path

    def read_json(self, name: str, step: str) -> Any:
        """An artefact's values. Raises RunError where `step` has not run, or the file is damaged."""
        try:
            return json.loads(self.file(name, step).read_bytes())
        except ValueError as error:
            raise damaged(self.path / name, error) from None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from working on this run meanwhile. Raises RunError where one does."""
        try:
            lock = DirectoryLock(self.path, exclusive=True)
        except BlockingIOError:
            raise RunError(f"another process is at work on {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def write_json(self, name: str, values: Any) -> None:
        """Replace an artefact."""
        self.write(name, json.dumps(values, indent=2).encode() + b"\n")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Replace an artefact: temporary file, fsync, rename. A full disk leaves the old one. Raises RunError."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        try:
            write_atomically(target, data)
        except OSError as error:
            raise RunError(
                f"{target} can not be written: {error.strerror}; what was there before is unharmed"
            ) from error


def damaged(path: Path, error: Exception) -> RunError:
    """The error for an artefact that is there but can not be read."""
    return RunError(f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}")
