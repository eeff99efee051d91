"""Golden images: they cover the formats whose decoding can go wrong."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from pictures import put
from PIL import Image

from training.errors import DataError
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.golden_images import RESERVED_STEMS, check_golden_images
from training.steps.golden import draw_scene, read_golden, synthetic_probes, write_golden

SCENE = "481f1b988ee456fc8c92d0690c759506d95387138f3a72faba2e12ab0d13707e"


def test_the_scene_is_the_same_on_every_machine() -> None:
    """It is drawn in integer arithmetic. Swapped channels and mirror images differ from it."""
    picture = draw_scene(160, 120)
    assert hashlib.sha256(picture.tobytes()).hexdigest() == SCENE
    for other in (picture[:, :, ::-1], picture[::-1], picture[:, ::-1]):
        assert np.abs(picture.astype(int) - other).mean() > 20


def test_golden_images_cover_the_formats(finished_run: Run) -> None:
    """Also a large image that is not square, and samples of the validation split."""
    blocks = read_golden(finished_run)
    encoded = {
        block.image.removeprefix("golden/"): (finished_run.path / block.image).read_bytes()
        for block in blocks
    }
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


def test_golden_images_of_the_user_come_first(run_copy: Run, tmp_path: Path) -> None:
    """They are stored unchanged. The server uses the first one as its example."""
    cat = put(tmp_path, {"my-cat.png": 1}) / "my-cat.png"
    config = run_copy.config.model_copy(update={"golden_images": (str(cat),), "golden_samples": 0})
    run_copy = Run.create_at(run_copy.path, config)
    first, *others = write_golden(run_copy, open_run_data(run_copy))
    assert first.image == "golden/my-cat.png"
    assert (run_copy.path / first.image).read_bytes() == cat.read_bytes()
    assert not any("sample" in block.image for block in others)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words.txt", "words.txt cannot be read"),
        ("my cat.png", "under this name"),
        ("large.png", "under this name"),
    ],
)
def test_invalid_golden_images_are_rejected_before_the_training(
    tmp_path: Path, name: str, message: str
) -> None:
    """A file that is not an image, an invalid name, and a reserved name."""
    put(tmp_path, {name: b"words" if name.endswith("txt") else 1})
    with pytest.raises(DataError, match=message):
        check_golden_images((str(tmp_path / name),))


def test_names_of_drawn_images_are_reserved() -> None:
    """A user's file cannot replace a drawn image."""
    names = {Path(probe.name).stem for probe in synthetic_probes()}
    assert names | {"golden"} == RESERVED_STEMS
