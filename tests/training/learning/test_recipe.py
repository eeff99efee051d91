"""Recipes: TOML files, which are validated before anything is trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from training.errors import RecipeError
from training.learning.recipe import Recipe
from training.learning.recipe_file import check_changes, known_recipes, load_recipe


@pytest.mark.parametrize("name", known_recipes())
def test_every_built_in_recipe_is_valid_and_states_its_purpose(name: str) -> None:
    assert load_recipe(name)
    assert len(known_recipes()[name]) > 20


def test_he2015_has_the_values_of_the_paper() -> None:
    """Section 4.2."""
    recipe = load_recipe("he2015")
    optimizer, augmentation = recipe.optimizer, recipe.augmentation
    assert (recipe.iterations, recipe.batch_size, recipe.normalization) == (64000, 128, "pixels")
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.nesterov) == (0.1, 0.9, False)
    assert (optimizer.weight_decay, optimizer.decay_norms) == (1e-4, True)
    assert [milestone * 64000 for milestone in recipe.schedule.milestones] == [32000, 48000]
    assert (augmentation.pad, augmentation.flip) == (4, "random")


def fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in (schema, *schema["$defs"].values()):
        yield from section["properties"].items()


def test_every_field_has_a_description_of_a_sentence() -> None:
    """The reference page is generated from them."""
    schema = Recipe.model_json_schema()
    assert len(list(fields(schema))) > 40
    for name, field in fields(schema):
        assert field.get("description", "").endswith("."), name


def test_a_recipe_extends_another_one() -> None:
    base, extended = load_recipe("he2015"), load_recipe("he2015-110")
    assert extended.schedule.warmup_iterations == 400
    assert extended.model_copy(update={"schedule": base.schedule}) == base


def test_single_values_can_be_set() -> None:
    """As TOML, or as a bare word; `epochs` replaces `iterations`."""
    recipe = load_recipe(
        "he2015", ["epochs=3", "optimizer.learning_rate=0.05", "augmentation.fill=reflect"]
    )
    assert (recipe.epochs, recipe.iterations) == (3, None)
    assert (recipe.optimizer.learning_rate, recipe.augmentation.fill) == (0.05, "reflect")
    assert recipe.optimizer.momentum == 0.9


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("epochs", "--set"),
        ("=3", "--set"),
        ("epochs=0", "`epochs`"),
        ("epochs=three", "`epochs`"),
        ("optimizer.speed=1", "`optimizer.speed`"),
        ("optimizer.learning_rate=-1", "`optimizer.learning_rate`"),
        ("optimizer.learning_rate=nan", "`optimizer.learning_rate`"),
        ("batch_size=1", "`batch_size`"),
        ("accumulation=65", "accumulation"),
        ("schedule.milestones=[0.5]", "milestones"),
        ("augmentation.pad=4", "pad"),
        ("augmentation.crop_area=[1.2, 0.8]", "crop_area"),
        ("normalization=pixels", "normalization"),
        ("learn_validation=true", "learn_validation"),
    ],
)
def test_an_invalid_value_is_named(change: str, named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        load_recipe("digits", [change])


def test_a_value_that_no_recipe_has_is_refused_with_the_closest_name() -> None:
    for check in (lambda change: load_recipe("digits", [change]), lambda c: check_changes([c])):
        with pytest.raises(RecipeError, match=r"optimizer\.learning_rate\?"):
            check("optimizer.learing_rate=1")


@pytest.mark.parametrize("change", ["epochs", "epochs=0", "batch_size=two", "optimizer=3", "x.y=1"])
def test_names_and_limits_of_changes_are_checked_before_the_recipe_is_known(change: str) -> None:
    with pytest.raises(RecipeError):
        check_changes([change])


@pytest.mark.parametrize(
    "change", ["schedule.milestones=[0.5]", "learn_validation=true", "epochs=2"]
)
def test_combinations_of_changes_depend_on_the_recipe(change: str) -> None:
    check_changes([change])


def test_a_recipe_can_be_a_file_outside_the_package(tmp_path: Path) -> None:
    """Its path ends in .toml."""
    (tmp_path / "mine.toml").write_text('extends = "fast"\nepochs = 2\n')
    recipe = load_recipe(str(tmp_path / "mine.toml"))
    assert recipe.epochs == 2
    assert recipe.schedule == load_recipe("fast").schedule


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("epochs = ", "TOML"),
        ("epochs = 1", "`optimizer`"),
        ("extends = 3", "`extends`"),
        ('extends = "nothing"', "nothing"),
        ("epochs = 1\niterations = 2\n[optimizer]\nlearning_rate = 0.1", "epochs or iterations"),
        ("[optimizer]\nlearning_rate = 0.1", "epochs or iterations"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match=named):
        load_recipe(str(tmp_path / "mine.toml"))


def test_a_cycle_of_recipes_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f'extends = "{second}"')
    second.write_text(f'extends = "{first}"')
    with pytest.raises(RecipeError, match="itself"):
        load_recipe(str(first))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'mine'.*cifar10, digits, .*, he2015, he2015-110, "):
        load_recipe("mine")
