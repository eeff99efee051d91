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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from model_store.manifest import now
from training.data import Split
from training.errors import RunError
from training.recipe import Recipe


@dataclass(frozen=True)
class Config:
    """What a run was asked for, and the command that asked."""

    model: str
    data: str
    architecture: str
    recipe_name: str
    recipe: Recipe
    seed: int
    command: str


class RunDirectory:
    """One run on disk. Reading what a step has not written yet is a RunError that names the step."""

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
        self.write_json("config.json", asdict(config))

    def config(self) -> Config:
        """What the run was asked for."""
        values = self.read_json("config.json", "run")
        return Config(**{**values, "recipe": Recipe.from_values(values["recipe"])})

    def write_split(self, split: Split) -> None:
        """Keep which image is where."""
        self.write_json("split.json", {name: indices.tolist() for name, indices in vars(split).items()})

    def split(self) -> Split:
        """Which image is where."""
        return Split(**{name: np.asarray(indices, np.int64) for name, indices in self.read_json("split.json", "train").items()})

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
        except json.JSONDecodeError as error:
            raise RunError(f"{self.path / name} is damaged: {error}") from None

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
