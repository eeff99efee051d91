"""A progress bar of one line on a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

WIDTH: Final = 30
REDRAW_SECONDS: Final = 0.1

Progress = bool | Callable[[int, int | None], None]
"""True draws a bar on stderr if that is a terminal; a function gets `(done, total)`."""


@contextmanager
def count_progress(progress: Progress, images: object) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of newly finished images.

    Args:
        progress: Whether and how the progress is shown.
        images: Their length, if they have one, is the total.
    """
    total = len(images) if hasattr(images, "__len__") else None
    bar = _ProgressBar(total) if progress is True and sys.stderr.isatty() else None
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if bar:
            bar.show(done)
        elif callable(progress):
            progress(done, total)

    try:
        yield advance
    finally:
        if bar:
            bar.end(done)


class _ProgressBar:
    def __init__(self, total: int | None) -> None:
        self._total = total
        self._started = self._drawn = time.monotonic()

    def show(self, done: int) -> None:
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw(done, "")

    def end(self, done: int) -> None:
        self._draw(done, "\n")

    def _draw(self, done: int, end: str) -> None:
        self._drawn = time.monotonic()
        rate = done / max(self._drawn - self._started, 1e-9)
        bar, total = "", ""
        if self._total:
            filled = WIDTH * done // self._total
            bar, total = f"[{'#' * filled}{'.' * (WIDTH - filled)}] ", f"/{self._total}"
        text = f"\r{bar}{done}{total} images, {rate:.1f}/s "
        print(text, end=end, file=sys.stderr, flush=True)  # noqa: T201  the caller asked for it
