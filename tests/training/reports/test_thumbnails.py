"""Thumbnails: small images keep every pixel, large ones are reduced."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from training.reports.thumbnails import (
    LOSSLESS_SIDE,
    THUMBNAIL_SIDE,
    make_thumbnail,
    make_thumbnails,
)
from training.run.data import open_run_data
from training.run.directory import Run


def decoded(uri: str) -> Image.Image:
    """The image in a `data:` URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True)))


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (10, 64), (64, 64)])
@pytest.mark.parametrize("grey", [False, True])
def test_a_small_image_keeps_every_pixel(shape: tuple[int, int], *, grey: bool) -> None:
    """It is a PNG file, in grey if the image is grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    if grey:
        pixels[...] = pixels[..., :1]
    thumbnail = make_thumbnail(pixels)
    image = decoded(thumbnail.uri)
    assert thumbnail.small
    assert thumbnail.uri.startswith("data:image/png;base64,")
    assert (np.asarray(image.convert("RGB")) == pixels).all()
    assert image.mode == ("L" if grey else "RGB")


def test_grey_thumbnails_are_smaller() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    grey = np.ascontiguousarray(np.broadcast_to(colours[..., :1], colours.shape))
    assert len(make_thumbnail(grey).uri) < len(make_thumbnail(colours).uri) / 2


@pytest.mark.parametrize(
    ("shape", "size"), [((224, 224), (112, 112)), ((65, 65), (65, 65)), ((100, 400), (112, 28))]
)
def test_a_large_image_becomes_a_small_jpeg(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Proportions are kept."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    thumbnail = make_thumbnail(pixels)
    assert max(shape) > LOSSLESS_SIDE
    assert not thumbnail.small
    assert thumbnail.uri.startswith("data:image/jpeg;base64,")
    assert decoded(thumbnail.uri).size == size
    assert max(size) <= THUMBNAIL_SIDE
    assert len(thumbnail.uri) < 20_000


def test_each_thumbnail_is_made_once(finished_run: Run) -> None:
    data = open_run_data(finished_run)
    progress: list[tuple[int, int]] = []
    thumbnails = make_thumbnails(
        data.chunks, [7, 3, 7, 900], lambda done, total: progress.append((done, total))
    )
    assert list(thumbnails) == [3, 7, 900]
    assert progress == [(3, 3)]
    (pixels,) = data.chunks(np.array([900]))
    assert thumbnails[900] == make_thumbnail(pixels[0])
    assert make_thumbnails(data.chunks, []) == {}
