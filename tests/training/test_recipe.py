"""A recipe is a file of values, and a wrong one is named."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.recipe import RECIPES, Recipe

DIGITS = (RECIPES / "digits.toml").read_text()


def test_a_recipe_survives_the_way_through_plain_values() -> None:
    """What stands in config and manifest builds the same recipe again."""
    recipe = Recipe.load("digits")
    assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("epochs = 1", "Field required"),
        (DIGITS + "\nflips = 1", "augmentation.flips"),
        (DIGITS.replace("batch_size = 64", "batch_size = 0"), "batch_size: Input should be greater"),
        (DIGITS.replace("epochs = 60", "epochs = 1.5"), "epochs: Input should be a valid integer"),
        (DIGITS.replace("0.98 ", "'0.98' "), "accuracy_floor: Input should be a valid number"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    """Not TOML, values missing, values unknown, values impossible."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        Recipe.load(str(path))


def test_an_unknown_recipe_lists_the_known() -> None:
    """The message says what there is."""
    with pytest.raises(RecipeError, match="there are digits"):
        Recipe.load("imagenet")
