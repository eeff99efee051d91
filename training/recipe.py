"""A recipe: the values that a training runs by, read from a TOML file; never a branch in the loop."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from training.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Augmentation:
    """Bounds of the random affine map; 0 switches a part off."""

    rotation_degrees: float
    translation: float
    scale: float
    shear_degrees: float


@dataclass(frozen=True)
class Recipe:
    """SGD with Nesterov momentum under a one-cycle learning rate."""

    epochs: int
    batch_size: int
    max_learning_rate: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    accuracy_floor: float
    augmentation: Augmentation

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.max_learning_rate <= 0:
            raise RecipeError("epochs, batch_size and max_learning_rate must be above zero")

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Build from plain values. Raises RecipeError that names what is missing or not known."""
        try:
            return cls(**{**values, "augmentation": Augmentation(**values["augmentation"])})
        except (TypeError, KeyError) as error:
            raise RecipeError(f"the recipe is not complete or has an unknown value: {error}") from None

    @classmethod
    def load(cls, name: str) -> Self:
        """Read `training/recipes/<name>.toml`, or a file of your own where `name` ends in .toml. Raises RecipeError."""
        path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
        try:
            return cls.from_values(tomllib.loads(path.read_text()))
        except FileNotFoundError:
            known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
            raise RecipeError(f"there is no recipe {name!r}; there are {known}, or give the path of a .toml file") from None
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{path} is not TOML: {error}") from None

    def to_values(self) -> dict[str, Any]:
        """Plain values, as they stand in a run's config and in the manifest."""
        return dataclasses.asdict(self)
