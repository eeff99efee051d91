"""Retraining: a run that goes on from a published version, with new pictures of its classes, or with new classes."""

from dataclasses import replace
from pathlib import Path

from model_store.provenance import VersionReference
from model_store.store import ModelStore
from training.data.image_set import ImageSet, in_natural_order
from training.data.sources import check_data
from training.errors import DataError
from training.learning.recipe import Recipe
from training.run.data import KNOWN_IMAGES_FILE, load_images
from training.run.directory import RunConfig, RunDirectory
from training.run.initial_weights import fit_head, open_version, read_checkpoint
from training.run.request import RunRequest
from training.run.weights import INITIAL_WEIGHTS, PREVIOUS_WEIGHTS, serialise
from training.steps.golden import check_golden_images
from training.steps.publish import describe_origin


def begin_retraining(
    reference: str, wish: RunRequest, runs: Path, store: ModelStore
) -> RunDirectory:
    """Make the directory of a run that goes on from MODEL (what `production` names) or MODEL/VERSION.

    Network, geometry and normalisation are the version's. Its classes keep their places and their rows of the head; new ones
    come behind them. Raises InitialWeightsError where the version holds no weights, DataError where a class of it has no pictures.
    """
    for name in wish.data:
        check_data(name, wish.data_dir)
    recipe = Recipe.load(wish.recipe or "finetune", wish.changes)
    with open_version(store, reference) as version:
        manifest, trained = version.manifest, read_checkpoint(version)
        known = (
            version.path(KNOWN_IMAGES_FILE).read_bytes()
            if KNOWN_IMAGES_FILE in {entry.path for entry in manifest.files}
            else None
        )
        derived_from = VersionReference(
            model=version.model, version=version.number, digest=version.digest
        )
    class_names = _succeeding_classes(load_images(wish.data, wish.data_dir), manifest.class_names)
    config = RunConfig(
        model=wish.model or derived_from.model,
        data=wish.data,
        data_dir=None if wish.data_dir is None else str(wish.data_dir),
        class_names=class_names,
        architecture=trained.architecture,
        preprocessing=manifest.preprocessing,
        recipe_name=wish.recipe or "finetune",
        recipe=recipe.model_copy(update={"mirrored": recipe.mirrored or trained.mirrored}),
        changes=wish.changes,
        seed=wish.seed,
        start=f"{derived_from.model}/{derived_from.version}",
        derived_from=derived_from,
        precision=wish.precision,
        compile=wish.compile,
        keep_checkpoint=wish.keep_checkpoint,
        golden_samples=wish.golden_samples,
        golden_images=check_golden_images(wish.golden_images),
        **describe_origin(),
    )
    run = RunDirectory.create(runs, config)
    state = trained.network.state_dict()
    head = fit_head(
        state, manifest.class_names, trained.normalize, trained.architecture, class_names, reference
    )
    run.write(INITIAL_WEIGHTS, serialise(head))
    run.write(PREVIOUS_WEIGHTS, serialise(replace(trained, epoch=0)))
    if known is not None:
        run.write(KNOWN_IMAGES_FILE, known)
    return run


def _succeeding_classes(images: ImageSet, old: tuple[str, ...]) -> tuple[str, ...]:
    """The old classes in their order, the new ones behind. Raises DataError where an old one has no pictures."""
    if missing := [name for name in old if name not in images.class_names]:
        raise DataError(
            f"there is no picture of {', '.join(missing[:8])}{' and more' if len(missing) > 8 else ''}: the new model would forget "
            "what the old one knows of them, and no test could tell. Give the old pictures too: --data OLD --data NEW"
        )
    return (*old, *in_natural_order(set(images.class_names) - set(old)))
