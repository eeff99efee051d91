"""A recipe: the values that a training runs by, read from a TOML file; never a branch in the loop."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Augmentation(BaseModel):
    """Bounds of the random affine map; 0 switches a part off."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    rotation_degrees: Annotated[float, Field(ge=0, le=180)]
    translation: Fraction
    scale: Fraction
    shear_degrees: Annotated[float, Field(ge=0, lt=90)]


class Recipe(BaseModel):
    """SGD with Nesterov momentum under a one-cycle learning rate."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    max_learning_rate: Positive
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    label_smoothing: Fraction
    accuracy_floor: Annotated[float, Field(ge=0, le=1)]
    augmentation: Augmentation

    @classmethod
    def load(cls, name: str) -> Self:
        """Read `training/recipes/<name>.toml`, or a file of your own where `name` ends in .toml. Raises RecipeError."""
        path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
            raise RecipeError(f"there is no recipe {name!r}; there are {known}, or give the path of a .toml file") from None
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in problem["loc"])
            raise RecipeError(f"the recipe {name} is wrong at {place}: {problem['msg']}") from None
        except (OSError, ValueError) as error:  # tomllib's and the decoder's errors are ValueErrors
            raise RecipeError(f"{path} is not TOML: {error}") from None
