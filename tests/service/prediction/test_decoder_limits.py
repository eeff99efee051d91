"""How much memory a decoder process gets, and what its end means."""

import signal

import pytest

from model_store.errors import ImageCorruptError, ImageError, ImageTooExpensiveError
from service.prediction.decoder import DecoderLimits, death_error
from service.prediction.decoder_process import EXIT_MEMORY


def test_memory_grows_with_the_pixels_and_bytes_of_an_image() -> None:
    """Four bytes for each encoded byte and sixteen for each pixel, beside 128 MiB."""
    assert DecoderLimits.for_images(0, 0).memory_bytes == 128 * 2**20
    limits = DecoderLimits.for_images(1000, 100)
    assert limits.memory_bytes == 128 * 2**20 + 16 * 1000 + 4 * 100
    assert limits.max_pixels == 1000


@pytest.mark.parametrize(("pixels", "needed"), [(0, 0), (400, 400), (1000, 1000), (2000, 1000)])
def test_processes_for_smaller_images_get_only_their_memory(pixels: int, needed: int) -> None:
    """Never more than the largest image needs; it may still be opened, to learn its cost."""
    below = DecoderLimits.for_images(1000, 100).below(pixels)
    assert below.memory_bytes == DecoderLimits.for_images(needed, 100).memory_bytes
    assert below.max_pixels == 1000


@pytest.mark.parametrize(
    ("exit_code", "error"),
    [
        (-signal.SIGXCPU, ImageTooExpensiveError),
        (-signal.SIGKILL, ImageTooExpensiveError),
        (EXIT_MEMORY, ImageTooExpensiveError),
        (-signal.SIGSEGV, ImageCorruptError),
        (signal.SIGXCPU, ImageCorruptError),
        (signal.SIGKILL, ImageCorruptError),
        (1, ImageCorruptError),
        (0, ImageCorruptError),
    ],
)
def test_end_of_a_process_is_the_error_of_its_image(
    exit_code: int, error: type[ImageError]
) -> None:
    """The kernel ends a process that exceeds a limit; other ends are crashes."""
    assert type(death_error(exit_code)) is error
