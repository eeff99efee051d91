"""Golden images see what goes wrong on the way from bytes to pixels."""

import hashlib
import io

import numpy as np
from PIL import Image

from training.golden import read_golden, scene
from training.run_directory import RunDirectory

SCENE = "481f1b988ee456fc8c92d0690c759506d95387138f3a72faba2e12ab0d13707e"


def test_the_scene_is_the_same_on_every_machine() -> None:
    """Integer arithmetic alone: one digest, and no two channels or mirror images alike."""
    picture = scene(160, 120)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == SCENE
    for other in (picture[:, :, ::-1], picture[::-1], picture[:, ::-1]):
        assert np.abs(picture.astype(int) - other).mean() > 20


def test_the_images_cover_what_the_design_names(finished_run: RunDirectory) -> None:
    """EXIF orientation 6, CMYK, alpha, 16 bits, a palette, a large image that is not square, and images of the data."""
    blocks = read_golden(finished_run)
    encoded = {block.image.removeprefix("golden/"): (finished_run.path / block.image).read_bytes() for block in blocks}
    opened = {name: Image.open(io.BytesIO(data)) for name, data in encoded.items()}
    assert opened["exif-6.jpg"].getexif()[0x0112] == 6
    assert opened["cmyk.jpg"].mode == "CMYK"
    assert opened["alpha.png"].mode == "RGBA"
    assert opened["grey-16-bit.png"].mode == "I;16"
    assert opened["palette.png"].mode == "P"
    assert opened["large.jpg"].size == (1500, 1000)
    samples = [block.purpose for block in blocks if "validation split" in block.purpose]
    assert len(set(samples)) == 5
    assert sum(len(data) for data in encoded.values()) < 250_000
