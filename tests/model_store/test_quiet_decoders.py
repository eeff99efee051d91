"""Decoders print nothing about the images that clients send."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiff_files
from store_factory import animation, png
from tiff_files import tiff_file

from model_store.errors import ImageError
from model_store.manifest import Preprocessing
from model_store.preprocessing import Pixels, prepare

FLAT = Preprocessing(resize_mode="exact", resize=4, crop_height=4, crop_width=4)


def decode(name: str) -> Pixels | ImageError:
    """The result for a file of `NOISY`."""
    try:
        return prepare(NOISY[name], FLAT)
    except ImageError as error:
        return error


NOISY = {
    "TIFF with unknown tags": tiff_file(
        np.zeros((4, 4, 1), np.uint8),
        8,
        tiff_files.BLACK_IS_ZERO,
        compression=tiff_files.DEFLATE,
        more_tags=[(40_000 + i, 0, [7]) for i in range(500)],
    ),
    "large PNG": png(9500, 9500, 8, 2),
    "damaged TIFF": tiff_file(
        np.zeros((4, 4, 1), np.uint8), 8, tiff_files.BLACK_IS_ZERO, compression=tiff_files.DEFLATE
    )[:-9]
    + bytes(9),
    "MPO without its index": animation("MPO").replace(b"MPF\0", b"MPF\0II*\0\0\0\0\0", 1),
}


@pytest.mark.parametrize("name", NOISY)
def test_nothing_is_printed_about_an_image(name: str) -> None:
    """libtiff writes to the process's stderr, and Pillow warns with a path."""
    code = f"from test_quiet_decoders import decode; decode({name!r})"
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{folder}:{folder.parent}:{folder.parents[1]}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ""
