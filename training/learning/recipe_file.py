"""Reads recipes from TOML files, with single values changed by `--set`. It imports no torch."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from training.errors import RecipeError
from training.learning.recipe import Recipe

RECIPES: Final = Path(__file__).parent / "recipes"
DEFAULT_RECIPE: Final = "modern"
EXPERIMENT_RECIPE: Final = "experiment"
"""The recipe of `experiment`."""


def load_recipe(name: str, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: A recipe of `known_recipes()`, or the path of a `.toml` file. With
            `extends = "NAME"`, a file inherits the values that it does not set.
        changes: Single values that override the file, as in `optimizer.learning_rate=0.05`.

    Raises:
        RecipeError: The file or a value is invalid; the message names the field.
    """
    try:
        return _validate(_changed(name, changes))
    except ValidationError as error:
        raise RecipeError(f"recipe {name} is invalid{_describe(_errors(error)[0])}") from None


def check_changes(changes: Iterable[str]) -> None:
    """Check names and values of `--set` before the recipe is known.

    Combinations of values depend on the recipe, so they are not checked.

    Raises:
        RecipeError: There is no such value, or it is out of its limits.
    """
    try:
        _validate(_changed(DEFAULT_RECIPE, changes))
    except ValidationError as error:
        # Validators of whole sections raise "value_error".
        if own := [each for each in _errors(error) if each["type"] != "value_error"]:
            raise RecipeError(f"--set is invalid{_describe(own[0])}") from None


def known_recipes() -> dict[str, str]:
    """Return the purpose of each built-in recipe, by name: the first line of its file."""
    paths = sorted(RECIPES.glob("*.toml"), key=attrgetter("stem"))
    return {
        path.stem: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for path in paths
    }


def _read(name: str, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    if name in extended_by:
        raise RecipeError(f"recipe {name} extends itself")
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(
            f"there is no recipe {name!r}; use one of {', '.join(known_recipes())}, "
            "or the path of a .toml file"
        ) from None
    except (OSError, ValueError) as error:  # tomllib and the UTF-8 decoder raise ValueErrors
        raise RecipeError(f"{path} is not valid TOML: {error}") from None
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"recipe {name} is invalid at `extends`: expected the name of a recipe")
    return _merge(_read(base, (*extended_by, name)), values)


def _changed(name: str, changes: Iterable[str]) -> dict[str, Any]:
    values = _read(name)
    for change in changes:
        values = _merge(values, _parse_change(change))
    return values


def _validate(values: dict[str, Any]) -> Recipe:
    return Recipe.model_validate_json(json.dumps(values, default=str))


def _errors(error: ValidationError) -> list[Any]:
    return error.errors(include_url=False)


def _describe(problem: Any) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    reason = f"{problem['msg']}, got {problem['input']!r}" if field else problem["msg"]
    if problem["type"] == "extra_forbidden":
        names = list(_value_names(Recipe))
        close = difflib.get_close_matches(field, names, 1)
        known = f"did you mean {close[0]}?" if close else f"the values are {', '.join(names)}"
        reason = f"there is no such value; {known}"
    return f" at `{field}`: {reason}" if field else f": {reason}"


def _value_names(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _value_names(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _merge(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Override `base` with `values`, recursively. `epochs` and `iterations` replace each other."""
    if {"epochs", "iterations"} & set(values):
        base = {key: value for key, value in base.items() if key not in {"epochs", "iterations"}}
    merged = dict(base)
    for key, value in values.items():
        are_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if are_tables else value
    return merged


def _parse_change(change: str) -> dict[str, Any]:
    """Parse `a.b=1` into nested dicts. Text that is not a TOML value becomes a string."""
    expected = f"--set expects NAME=VALUE, as in optimizer.learning_rate=0.05; got {change!r}"
    key, separator, text = change.partition("=")
    if not separator or not key.strip():
        raise RecipeError(expected)
    for value in (text.strip(), json.dumps(text.strip())):
        try:
            return tomllib.loads(f"{key.strip()} = {value}")
        except tomllib.TOMLDecodeError:
            continue
    raise RecipeError(expected)
