"""`start_run` turns a request into the run directory that all steps work on."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from model_store.command_line import as_called
from model_store.geometry import resize_value
from model_store.manifest import Colour, Letterbox, Preprocessing, ResizeMode
from model_store.names import check_name
from model_store.store import ModelStore
from training.data.image_set import in_natural_order
from training.data.sources import ImageSet, is_known, resolve_source
from training.errors import DataError
from training.learning.architectures import (
    DEFAULT_ARCHITECTURE,
    default_image_size,
    parse_architecture,
)
from training.learning.recipe import CompileChoice, PrecisionChoice, Recipe
from training.learning.recipe_file import DEFAULT_RECIPE, known_recipes, load_recipe
from training.run.config import RunConfig
from training.run.data import load_images
from training.run.directory import Run
from training.run.golden_images import check_golden_images
from training.run.initial_weights import (
    InitialWeights,
    load_initial_weights,
    write_initial_weights,
)
from training.run.previous_version import PreviousVersion, load_previous_version
from training.run.provenance import describe_code

MAX_SIZE_WITHOUT_MARGIN: Final = 96
"""In pixels. Images for larger inputs are resized to cover 8/7 of the size, then cropped."""
WHITE: Final = (255, 255, 255)
BLACK: Final = (0, 0, 0)


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for. `start_run` chooses the values that are None."""

    data: tuple[str, ...]
    architecture: str | None = None
    model: str | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None
    """Height and width of the network's input in pixels."""
    resize_mode: ResizeMode | None = None
    padding: Colour | None = None
    """RGB colour around a letterboxed image."""
    start: str | None = None
    rename: tuple[str, ...] = ()
    """Classes of the version to retrain that have another name now, as OLD=NEW."""
    retrain: str | None = None
    """MODEL or MODEL/VERSION to retrain; excludes `architecture`, the geometry and `start`."""
    seed: int = 0
    data_dir: Path | None = None
    precision: PrecisionChoice = "auto"
    compile: CompileChoice = "auto"
    keep_checkpoint: bool = True
    keep_report: bool = True
    golden_samples: int = 5
    golden_images: tuple[str, ...] = ()

    @property
    def recipe_name(self) -> str:
        """`recipe`, or a default: `finetune`, that of a known data set, or `modern`."""
        if self.recipe or self.retrain:
            return self.recipe or "finetune"
        if is_known(self.data[0]) and self.data[0] in known_recipes():
            return self.data[0]
        return "finetune" if self.start else DEFAULT_RECIPE

    @property
    def data_name(self) -> str:
        return Path(self.data[0]).stem

    def resolved(self) -> "RunRequest":
        """Return the request with absolute paths, so that a run can be resumed from anywhere.

        Raises:
            DataError: A source of data does not exist, or its name is ambiguous.
        """
        return replace(
            self,
            data=tuple(resolve_source(name, self.data_dir) for name in self.data),
            data_dir=self.data_dir and self.data_dir.absolute(),
            golden_images=tuple(map(os.path.abspath, self.golden_images)),
        )


def start_run(request: RunRequest, runs: Path, store: ModelStore) -> tuple[Run, ImageSet]:
    """Create the directory of a new run. Every run of every command starts here.

    It reads the initial weights, lists the images and builds the configuration. Then it writes
    `config.json` and the weights, if there are any. `open_run_data` is the next step;
    `steps/pipeline.py` has all steps.

    Args:
        request: What the user asked for.
        runs: The parent of the new directory.
        store: Where `--start MODEL` and `retrain MODEL` are looked up.

    Returns:
        The run, and its images, which are not decoded yet.

    Raises:
        TrainingError, ModelStoreError: The request is invalid. Nothing was written.
    """
    request = request.resolved()
    recipe = load_recipe(request.recipe_name, request.changes)
    architecture = request.architecture or DEFAULT_ARCHITECTURE
    parse_architecture(architecture)
    previous = (
        load_previous_version(request.retrain, store).renamed(request.rename)
        if request.retrain
        else None
    )
    if previous:
        weights: InitialWeights | None = previous.initial_weights
    elif request.start:
        weights = load_initial_weights(request.start, architecture, store)
    else:
        weights = None
    images = load_request_images(request)
    config = build_config(request, images, recipe, weights, previous)
    initial = weights and weights.fit(config.architecture, config.class_names or images.class_names)
    run = Run.create(runs, config)
    if weights and initial:
        write_initial_weights(run, initial, weights.known_images)
    if previous:
        previous.write(run)
    return run, images


def move_data(run: Run, data: Sequence[str], data_dir: Path | None) -> Run:
    """Return the run with new places of its data.

    `open_run_data` refuses other images, and writes the places to `config.json` if it finds the
    same ones.

    Raises:
        DataError: A source does not exist.
    """
    place = data_dir and data_dir.absolute()
    return run.with_data(
        tuple(resolve_source(name, place) for name in data) or run.config.data,
        str(place) if place else run.config.data_dir,
    )


def load_request_images(request: RunRequest) -> ImageSet:
    """List the images of a resolved request without decoding them. Raises DataError."""
    return load_images(request.data, request.data_dir)


def build_config(
    request: RunRequest,
    images: ImageSet,
    recipe: Recipe,
    weights: InitialWeights | None = None,
    previous: PreviousVersion | None = None,
) -> RunConfig:
    """Choose every value of a run. Raises RecipeError, DataError or InvalidNameError."""
    if previous:
        architecture, preprocessing = previous.trained.architecture, previous.preprocessing
        model = request.model or previous.reference.model
        mirrored = recipe.mirrored or previous.trained.mirrored
        recipe = recipe.model_copy(update={"mirrored": mirrored})
    else:
        named = weights.architecture if weights else None
        architecture = request.architecture or named or DEFAULT_ARCHITECTURE
        preprocessing = choose_preprocessing(images.preprocessing, architecture, request)
        model = request.model or f"{request.data_name}-{architecture}"
    return RunConfig(
        model=check_name(model),
        data=request.data,
        data_dir=None if request.data_dir is None else str(request.data_dir),
        class_names=_append_new_classes(request, images, previous) if previous else None,
        architecture=architecture,
        preprocessing=preprocessing,
        recipe_name=request.recipe_name,
        recipe=recipe,
        changes=request.changes,
        seed=request.seed,
        start=weights.origin if weights else None,
        start_changes=weights.changes_for(architecture) if weights else (),
        renamed=request.rename,
        derived_from=previous.reference if previous else None,
        precision=request.precision,
        compile=request.compile,
        keep_checkpoint=request.keep_checkpoint,
        keep_report=request.keep_report,
        golden_samples=request.golden_samples,
        golden_images=check_golden_images(request.golden_images),
        **describe_code(),
    )


def choose_preprocessing(
    natural: Preprocessing | None, architecture: str, request: RunRequest
) -> Preprocessing:
    """Choose the geometry of a run.

    The size is the one of the request, else that of the data set, else the network's.

    Raises:
        DataError: The request has a padding without a letterbox.
    """
    mode = request.resize_mode or "shorter_side"
    if request.padding and mode != "letterbox":
        raise DataError("--padding needs --resize-mode letterbox; omit it, or give both")
    height = width = default_image_size(architecture)
    if natural:
        height, width = natural.crop_height, natural.crop_width
    height, width = target = request.image_size or (height, width)
    if mode == "shorter_side" and max(height, width) > MAX_SIZE_WITHOUT_MARGIN:
        target = (round(height * 8 / 7), round(width * 8 / 7))
    return Preprocessing(
        resize_mode=mode,
        resize=resize_value(mode, target, (height, width)),
        crop_height=height,
        crop_width=width,
        background=natural.background if natural else WHITE,
        letterbox=Letterbox(padding=request.padding or BLACK) if mode == "letterbox" else None,
    )


def _append_new_classes(
    request: RunRequest, images: ImageSet, previous: PreviousVersion
) -> tuple[str, ...]:
    old = previous.class_names
    if missing := [name for name in old if name not in images.class_names]:
        version = f"{previous.reference.model}/{previous.reference.version}"
        sources = [word for name in request.data for word in ("--data", name)]
        new = f"{as_called('training run')} {shlex.join([*sources, '--start', version])}"
        raise DataError(
            f"there are no images of {', '.join(missing[:8])}{' and more' if missing[8:] else ''}. "
            "The new model would forget these classes, and no test could detect it. Give the old "
            "images too: --data OLD --data NEW. If a class has another name now: "
            f"--rename {shlex.quote(missing[0])}=NEW. To drop classes, train a new model that "
            f"starts from this one: {new}"
        )
    return (*old, *in_natural_order(set(images.class_names) - set(old)))
