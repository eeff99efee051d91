"""A recipe is a file of values, and a wrong one is named."""

from pathlib import Path

import pytest

from training.errors import RecipeError
from training.recipe import Recipe


def test_a_recipe_survives_the_way_through_plain_values() -> None:
    """What stands in config and manifest builds the same recipe again."""
    recipe = Recipe.load("digits")
    assert Recipe.from_values(recipe.to_values()) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not TOML"),
        ("epochs = 1", "not complete"),
        ((Path("training/recipes/digits.toml").read_text() + "\nflips = 1"), "flips"),
        (Path("training/recipes/digits.toml").read_text().replace("batch_size = 64", "batch_size = 0"), "above zero"),
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
