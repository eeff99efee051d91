"""What `bench` and `tune` share: error handling, the check for the extra, and option types."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import click

from model_store.errors import ModelStoreError
from service.loadtest.errors import MeasurementError

PICTURE_SUFFIXES: Final = (".svg", ".png", ".pdf")
EXTRA_PACKAGES: Final = ("rich", "matplotlib")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn expected errors into one line and exit code 1."""
    try:
        yield
    except (MeasurementError, ModelStoreError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename}: {error.strerror}" if error.filename else str(error)
        ) from error


def require_extra() -> None:
    """Raise click.ClickException if a package of the extra `tune` is missing."""
    missing = [name for name in EXTRA_PACKAGES if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"this command needs {' and '.join(missing)}. "
            "In a checkout of Resident: pip install '.[service,tune]'"
        )


class BoundedNumber(click.FloatRange):
    """A finite number above 0 (or from `least` on) up to `most`."""

    def __init__(self, most: float, least: float | None = None) -> None:
        super().__init__(min=least or 0, max=most, min_open=least is None)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


class OutputFile(click.Path):
    """A file to write. Its suffix and directory are checked before the measurement starts."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(str(super().convert(value, param, ctx)))
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{str(path)!r} must end in {', '.join(self._suffixes)}", param, ctx)
        if not path.parent.is_dir():
            self.fail(
                f"{str(path)!r}: the directory {str(path.parent)!r} does not exist", param, ctx
            )
        return path
