"""How much memory a decoder process gets, and what its end means."""

import signal

import pytest
from colour_model import PREPROCESSING, plain
from pictures import encoded, picture, png_chunk

from model_store.errors import ImageCorruptError, ImageError, ImageTooExpensiveError
from model_store.image_header import open_image
from model_store.jpeg_markers import count_scans
from service.prediction.decoder import death_error, decode_memory
from service.prediction.decoder_process import EXIT_MEMORY, decode_cost, decoded_pixels


def test_memory_grows_with_the_pixels_and_bytes_of_an_image() -> None:
    """Four bytes for each encoded byte and sixteen for each pixel, beside 48 MiB."""
    assert decode_memory(0, 0) == 48 * 2**20
    assert decode_memory(1000, 100) == 48 * 2**20 + 16 * 1000 + 4 * 100


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


def cost(image: bytes) -> float:
    size = open_image(image, PREPROCESSING).size
    return decode_cost(decoded_pixels(size, PREPROCESSING), image)


def test_cost_of_an_image_is_its_pixels_before_or_after_the_resize() -> None:
    """Whichever are more."""
    assert cost(plain("red", size=(40, 30))) == 1200
    assert cost(plain("red", size=(4, 400))) == 8 * 800
    scans = png_chunk(b"teSt", b"\xff\xda" * 100)  # a PNG has none
    png = plain("red", size=(40, 30))
    assert cost(png[:33] + scans + png[33:]) == 1200


@pytest.mark.parametrize(("scans", "factor"), [(20, 1), (30, 1.5), (40, 2)])
def test_cost_of_a_jpeg_grows_with_its_scans(scans: int, factor: float) -> None:
    """Above the twenty that are usual at most."""
    data = encoded(picture(1, 64, 32), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    repeated = data[:-2] + data[last:-2] * (scans - count_scans(data)) + data[-2:]
    assert cost(repeated) == 64 * 32 * factor
