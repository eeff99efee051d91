"""Recipes: files of values, checked before anything is trained; one can stand on another, and single values can be set."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.learning.recipe import Recipe, known_recipes


@pytest.mark.parametrize("name", known_recipes())
def test_every_shipped_recipe_is_valid_and_says_what_it_is_for(name: str) -> None:
    """The first line of the file is its purpose."""
    assert Recipe.load(name)
    assert len(known_recipes()[name]) > 20


def test_he2015_has_the_papers_values() -> None:
    """Section 4.2: SGD with momentum 0.9, weight decay 1e-4, batches of 128, 0.1 divided at 32k and 48k of 64k iterations."""
    recipe = Recipe.load("he2015")
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (recipe.iterations, recipe.batch_size, optimizer.learning_rate, optimizer.momentum) == (
        64000,
        128,
        0.1,
        0.9,
    )
    assert (optimizer.weight_decay, optimizer.decay_norms, optimizer.nesterov) == (
        1e-4,
        True,
        False,
    )
    assert [milestone * 64000 for milestone in schedule.milestones] == [32000, 48000]
    assert (recipe.augmentation.pad, recipe.augmentation.flip, recipe.normalization) == (
        4,
        "random",
        "pixels",
    )


def test_a_recipe_extends_another_one() -> None:
    """Only what differs stands in the file."""
    base, extended = Recipe.load("he2015"), Recipe.load("he2015-110")
    assert extended.schedule.warmup_iterations == 400
    assert extended.model_copy(update={"schedule": base.schedule}) == base


def test_single_values_can_be_set() -> None:
    """As TOML, or as a word; epochs take the place of iterations."""
    recipe = Recipe.load(
        "he2015", ["epochs=3", "optimizer.learning_rate=0.05", "augmentation.fill=reflect"]
    )
    assert (recipe.epochs, recipe.iterations) == (3, None)
    assert (recipe.optimizer.learning_rate, recipe.augmentation.fill) == (0.05, "reflect")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "--set takes NAME=VALUE"),
        ("=3", "--set takes NAME=VALUE"),
        ("epochs=0", "epochs"),
        ("epochs=three", "epochs"),
        ("optimizer.speed=1", r"optimizer.speed: "),
        ("optimizer.learning_rate=-1", r"optimizer.learning_rate: "),
        ("optimizer.learning_rate=nan", r"optimizer.learning_rate: "),
        ("batch_size=1", "batch_size: "),
        ("accumulation=65", "a micro-batch needs two images"),
        ("schedule.milestones=[0.5]", "milestones"),
        ("augmentation.pad=4", "pad goes with flip alone"),
        ("normalization=pixels", "a mean image belongs to one size"),
        ("learn_validation=true", "can not choose the epoch"),
    ],
)
def test_a_wrong_value_is_named(change: str, message: str) -> None:
    """Before anything is trained."""
    with pytest.raises(RecipeError, match=message):
        Recipe.load("digits", [change])


def test_a_file_of_your_own(tmp_path: Path) -> None:
    """Its path ends in .toml; what is not in it comes from what it extends."""
    (tmp_path / "mine.toml").write_text('extends = "fast"\nepochs = 2\n')
    assert Recipe.load(str(tmp_path / "mine.toml")).epochs == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("epochs = 1", "optimizer: "),
        ("extends = 3", "extends: "),
        ('extends = "nothing"', "there is no recipe 'nothing'"),
        ("epochs = 1\niterations = 2\n[optimizer]\nlearning_rate = 0.1", "epochs or iterations"),
        ("[optimizer]\nlearning_rate = 0.1", "epochs or iterations"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the place and the reason."""
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(str(tmp_path / "mine.toml"))


def test_a_recipe_that_extends_itself_is_refused(tmp_path: Path) -> None:
    """Also over a second file."""
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(f'extends = "{second}"')
    second.write_text(f'extends = "{first}"')
    with pytest.raises(RecipeError, match="extends itself"):
        Recipe.load(str(first))


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    """So that a slip mends itself."""
    with pytest.raises(
        RecipeError,
        match=r"there is no recipe 'mine'; there are cifar10, digits, .*, he2015, he2015-110, ",
    ):
        Recipe.load("mine")
