"""What the measuring commands share: how they speak of errors, and of what is not installed."""

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
NEEDED: Final = ("rich", "matplotlib")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Our own errors, and the file system's, as one line and exit code 1: a person reads them, not a traceback."""
    try:
        yield
    except (MeasurementError, ModelStoreError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename}: {error.strerror}" if error.filename else str(error)
        ) from error


def require_extra() -> None:
    """Refuse to begin where tables and pictures can not be drawn."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise click.ClickException(
            f"{' and '.join(missing)} must be installed for this: python -m pip install {' '.join(missing)}, "
            "in a checkout '.[service,tune]'"
        )


class Number(click.FloatRange):
    """A number above nothing (or from `least` on) up to `most`; neither infinite nor what is none."""

    def __init__(self, most: float, least: float | None = None) -> None:
        super().__init__(min=least or 0, max=most, min_open=least is None)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click calls it."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


class OutputFile(click.Path):
    """A file to write, in a directory that is there: known before the measuring, not after it."""

    def __init__(self, *suffixes: str) -> None:
        super().__init__(dir_okay=False, writable=True, path_type=Path)
        self._suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """As click calls it."""
        path = Path(str(super().convert(value, param, ctx)))
        if self._suffixes and path.suffix.lower() not in self._suffixes:
            self.fail(f"{str(path)!r} must end in {', '.join(self._suffixes)}", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{str(path)!r}: there is no directory {str(path.parent)!r}", param, ctx)
        return path
