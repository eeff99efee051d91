"""A run's directory: what each step left, written so that a crash leaves the old content or the new one.

::

    runs/<run id>/
      config.json        what was asked for
      split.json         which image is in which split
      checkpoint.pt      the newest epoch, to resume from
      metrics.jsonl      one line an epoch
      weights.safetensors  the epoch that validation chose
      evaluation.json, evaluation.npz  the test split, opened once
      model.onnx         the export
      golden/            images, pixels, golden.json
      gates.json         what every check found
      published.json     where it went
"""

import json
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from model_store.files import DirectoryLock
from model_store.manifest import now
from training.data import Split
from training.errors import RunError
from training.recipe import Recipe


class Config(BaseModel):
    """What a run was asked for, and what it was begun with."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    data: str
    architecture: str
    recipe_name: str
    recipe: Recipe
    seed: int
    git_commit: str | None = None
    packages: dict[str, str] = {}

    @property
    def command(self) -> str:
        """What to type to train the same again; where runs and store lie is the reader's own."""
        words = ["--data", self.data, "--arch", self.architecture, "--model", self.model, "--seed", str(self.seed)]
        if self.recipe_name != self.data:
            words += ["--recipe", Path(self.recipe_name).name]
        if self.recipe.epochs != Recipe.load(self.data).epochs:
            words += ["--epochs", str(self.recipe.epochs)]
        return shlex.join(["python", "-m", "training", "run", *words])


class RunDirectory:
    """One run on disk. What a step has not written yet, and what is damaged, is a RunError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, runs: Path, config: Config) -> Self:
        """Make a new directory for a run under `runs`; its name is the run's id."""
        run = cls(runs / f"{config.model}-{now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
        run.path.mkdir(parents=True)
        run.write_config(config)
        return run

    @property
    def run_id(self) -> str:
        """The directory's name."""
        return self.path.name

    def write_config(self, config: Config) -> None:
        """Keep what the run was asked for."""
        self.write("config.json", config.model_dump_json(indent=2).encode() + b"\n")

    def config(self) -> Config:
        """What the run was asked for."""
        path = self.path / "config.json"
        try:
            return Config.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RunError(f"{self.path} has no config.json, so it is no run") from None
        except ValidationError as error:
            raise damaged(path, error) from None

    def write_split(self, split: Split, data_digest: str) -> None:
        """Keep which image is where, and of which data."""
        indices = {name: indices.tolist() for name, indices in vars(split).items()}
        self.write_json("split.json", {"data_digest": data_digest, **indices})

    def split(self) -> Split:
        """Which image is where."""
        values = self.read_json("split.json", "resume")
        try:
            return Split(**{name: np.asarray(values[name], np.int64) for name in ("train", "validation", "test")})
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(self.path / "split.json", error) from None

    def has(self, name: str) -> bool:
        """Whether a step has left this artefact."""
        return (self.path / name).exists()

    def file(self, name: str, step: str) -> Path:
        """The path of an artefact. Raises RunError where `step` has not run."""
        path = self.path / name
        if not path.exists():
            raise RunError(f"{self.path} has no {name}; run `python -m training {step}` on it first")
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

    def write(self, name: str, data: bytes) -> None:
        """Replace an artefact: temporary file, fsync, rename."""
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)


def damaged(path: Path, error: Exception) -> RunError:
    """The error for an artefact that is there but can not be read."""
    return RunError(f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}")
