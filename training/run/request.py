"""The beginning of a run: from what a person wishes to a directory that holds all that the steps need."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model_store.manifest import Preprocessing
from model_store.names import check_name
from model_store.store import ModelStore
from training.data.sources import ImageSet, check_data
from training.learning.determinism import CompileChoice, PrecisionChoice
from training.learning.networks import default_image_size, parse_architecture
from training.learning.recipe import Recipe, known_recipes
from training.run.data import load_images
from training.run.directory import RunConfig, RunDirectory
from training.run.initial_weights import architecture_of, lay_start
from training.steps.golden import check_golden_images
from training.steps.publish import describe_origin

MAX_SIZE_WITHOUT_MARGIN: Final = 96  # inputs up to here are resized to their own size; larger ones keep a margin of 8/7, as torchvision's do
DEFAULT_ARCHITECTURE: Final = "resnet20"  # where neither the wish nor its weights name one


@dataclass(frozen=True)
class RunRequest:
    """What a person asks for; what is None is chosen to fit the rest."""

    data: tuple[str, ...]
    architecture: str | None = None
    model: str | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()
    image_size: int | None = None
    start: str | None = None
    seed: int = 0
    data_dir: Path | None = None
    precision: PrecisionChoice = "auto"
    compile: CompileChoice = "auto"
    keep_checkpoint: bool = True
    golden_samples: int = 5
    golden_images: tuple[str, ...] = ()

    @property
    def recipe_name(self) -> str:
        """As asked; else as the data is called, `finetune` where there are weights to begin with, or `modern`."""
        fitting = (
            self.short_data
            if self.short_data in known_recipes()
            else "finetune"
            if self.start
            else "modern"
        )
        return self.recipe or fitting

    @property
    def short_data(self) -> str:
        """What the first of the data is called, without its folder."""
        return Path(self.data[0]).stem


def begin(wish: RunRequest, runs: Path, store: ModelStore) -> RunDirectory:
    """Make the run's directory. Raises DataError, RecipeError, InitialWeightsError or InvalidNameError before anything is there."""
    images = look_at(wish)
    run = RunDirectory.create(runs, configure(wish, images, store))
    lay_start(run, store, images.class_names)
    return run


def look_at(wish: RunRequest) -> ImageSet:
    """The wish's images, not yet decoded. Raises DataError."""
    for name in wish.data:
        check_data(name, wish.data_dir)
    return load_images(wish.data, wish.data_dir)


def configure(wish: RunRequest, images: ImageSet, store: ModelStore) -> RunConfig:
    """What a run on these images is asked for. Raises RecipeError, InitialWeightsError or InvalidNameError."""
    architecture = wish.architecture or architecture_of(wish.start, store) or DEFAULT_ARCHITECTURE
    parse_architecture(architecture)
    recipe, model = (
        Recipe.load(wish.recipe_name, wish.changes),
        check_name(wish.model or f"{wish.short_data}-{architecture}"),
    )
    return RunConfig(
        model=model,
        data=wish.data,
        data_dir=None if wish.data_dir is None else str(wish.data_dir),
        architecture=architecture,
        preprocessing=choose_preprocessing(images.preprocessing, architecture, wish.image_size),
        recipe_name=wish.recipe_name,
        recipe=recipe,
        changes=wish.changes,
        seed=wish.seed,
        start=wish.start,
        precision=wish.precision,
        compile=wish.compile,
        keep_checkpoint=wish.keep_checkpoint,
        golden_samples=wish.golden_samples,
        golden_images=check_golden_images(wish.golden_images),
        **describe_origin(),
    )


def choose_preprocessing(
    natural: Preprocessing | None, architecture: str, image_size: int | None
) -> Preprocessing:
    """The geometry: as asked, else as the data set is known by, else as the network is."""
    size = image_size or (natural.crop_height if natural else default_image_size(architecture))
    base = natural or Preprocessing(resize=size, crop_height=size, crop_width=size)
    return base.model_copy(
        update={
            "resize": size if size <= MAX_SIZE_WITHOUT_MARGIN else round(size * 8 / 7),
            "crop_height": size,
            "crop_width": size,
        }
    )
