"""Checks of the image files that a user gives for the golden proof (`--golden-image`)."""

from pathlib import Path
from typing import Final

from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.names import is_name
from model_store.preprocessing import prepare
from training.errors import DataError

RESERVED_STEMS: Final = frozenset(
    {"colours", "exif-6", "cmyk", "alpha", "grey-16-bit", "palette", "large", "golden"}
)
"""File names without suffix that `steps/golden.py` uses for its own images."""
_ANY_SIZE: Final = Preprocessing(resize=32, crop_height=32, crop_width=32)


def check_golden_images(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths. Raises DataError if a file is not an image or its name is unusable."""
    stems = [Path(path).stem for path in paths]
    for path in paths:
        try:
            prepare(Path(path).read_bytes(), _ANY_SIZE)
        except (OSError, ImageError) as error:
            raise DataError(f"--golden-image {path} cannot be read: {error}") from None
        stem = Path(path).stem
        if not is_name(Path(path).name) or stem in RESERVED_STEMS or stems.count(stem) > 1:
            raise DataError(
                f"--golden-image {path} cannot be published under this name. Rename the file: use "
                "letters, digits, '.', '_' and '-', each name once, and none of "
                f"{', '.join(sorted(RESERVED_STEMS))}"
            )
    return paths
