"""The configuration of a run, as `config.json` stores it."""

import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from model_store.manifest import Preprocessing
from model_store.provenance import VersionReference
from training.data.known_data import KNOWN_DATASETS
from training.learning.recipe import CompileChoice, PrecisionChoice, Recipe
from training.run.initial_reference import names_weights_file

NOT_TRAINING_VALUES = frozenset(
    {
        "model",
        "git_commit",
        "packages",
        "golden_samples",
        "golden_images",
        "keep_checkpoint",
        "keep_report",
        "start_changes",
        "renamed",
        "recipe_name",
        "changes",
        "data_dir",
    }
)
"""Fields that the trained weights do not depend on."""


def geometry_options(spec: Preprocessing) -> list[str]:
    """The options of `run` that give this geometry. Defaults except the size are left out."""
    words = ["--image-size", size_text(spec.crop_height, spec.crop_width)]
    if spec.resize_mode != "shorter_side":
        words += ["--resize-mode", spec.resize_mode.replace("_", "-")]
    if spec.letterbox:
        words += ["--padding", ",".join(map(str, spec.letterbox.padding))]
    return words


def size_text(height: int, width: int) -> str:
    """A size as `--image-size` takes it: `224`, or `128x256`."""
    return str(height) if height == width else f"{height}x{width}"


class RunConfig(BaseModel):
    """What a run trains, on which data, and what it publishes. Fixed when the run starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: str
    """The name of the model in the store."""
    data: tuple[str, ...]
    """Known data sets, and absolute paths of folders and CSV files."""
    data_dir: str | None = None
    class_names: tuple[str, ...] | None = None
    """The order of the classes. Set by `retrain`, which keeps the order of the previous version."""
    architecture: str
    preprocessing: Preprocessing
    recipe_name: str
    recipe: Recipe
    """The recipe with `changes` applied."""
    changes: tuple[str, ...] = ()
    """`--set` values, as NAME=VALUE."""
    seed: int
    start: str | None = None
    """Initial weights: `torchvision`, a file, or MODEL/VERSION of the store."""
    start_changes: tuple[str, ...] = ()
    """Differences between the weights of `start` and the initial network, and missing records."""
    renamed: tuple[str, ...] = ()
    """Classes of the retrained version that have another name now, as OLD=NEW."""
    derived_from: VersionReference | None = None
    """The version that this run retrains."""
    precision: PrecisionChoice = "auto"
    compile: CompileChoice = "auto"
    golden_samples: Annotated[int, Field(ge=0)] = 5
    """Number of validation images that are published in the version for its golden proof."""
    golden_images: tuple[str, ...] = ()
    """Image files of the user that are published in the version for its golden proof."""
    keep_checkpoint: bool = True
    """Whether the version includes the weights that `retrain` needs."""
    keep_report: bool = True
    """Whether the version includes the training report, which shows test images."""
    git_commit: str | None = None
    packages: dict[str, str] = {}

    @property
    def training_values(self) -> dict[str, Any]:
        """The values that the trained weights depend on. A resumed run must have the same ones."""
        return self.model_dump(mode="json", exclude=set(NOT_TRAINING_VALUES))

    @property
    def start_name(self) -> str | None:
        """`start`; if it is a file, without its directories."""
        is_file = self.start is not None and names_weights_file(self.start)
        return Path(self.start).name if self.start and is_file else self.start

    @property
    def command(self) -> str:
        """A command that repeats this training. It contains names only, no directories."""
        return shlex.join(["python", "-m", "training", *self.command_words(paths=False)])

    def command_words(self, *, paths: bool) -> list[str]:
        """Return subcommand and options that repeat this training.

        Args:
            paths: Whether files and folders keep their directories, so that the command runs on
                this machine. A published version states their names only.
        """

        def place(path: str) -> str:
            return path if paths else Path(path).name

        if self.derived_from:
            words = ["retrain", str(self.start)]
            words += [word for change in self.renamed for word in ("--rename", change)]
        else:
            words = ["run", "--arch", self.architecture]
            words += [*geometry_options(self.preprocessing), "--model", self.model]
            if self.start:
                words += ["--start", self.start if paths else str(self.start_name)]
        for data in self.data:
            name = place(data)
            words += ["--data", f"./{name}" if name != data and name in KNOWN_DATASETS else name]
        if paths and self.data_dir:
            words += ["--data-dir", self.data_dir]
        words += ["--recipe", place(self.recipe_name)]
        for change in self.changes:
            words += ["--set", change]
        for option, value in (("--precision", self.precision), ("--compile", self.compile)):
            words += [option, value] if value != "auto" else []
        return [*words, "--seed", str(self.seed)]
