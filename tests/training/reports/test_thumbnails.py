"""Pictures: small ones hold every pixel, large ones are bounded, each is taken once."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from training.reports.thumbnails import SMALL_SIDE, THUMBNAIL_SIDE, make_thumbnails, thumbnail_of
from training.run.data import open_run_data
from training.run.directory import RunDirectory


def decoded(uri: str) -> Image.Image:
    """The image in a `data:` URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2], validate=True)))


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (10, 64), (64, 64)])
@pytest.mark.parametrize("grey", [False, True])
def test_a_small_picture_holds_every_pixel(shape: tuple[int, int], *, grey: bool) -> None:
    """PNG, in grey where the image is: what is enlarged on the page is what the network sees."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    if grey:
        pixels[...] = pixels[..., :1]
    found = thumbnail_of(pixels)
    image = decoded(found.uri)
    assert found.small
    assert found.uri.startswith("data:image/png;base64,")
    assert (np.asarray(image.convert("RGB")) == pixels).all()
    assert image.mode == ("L" if grey else "RGB")


def test_grey_pictures_are_smaller() -> None:
    """A grey image in colours would be three times as much."""
    colours = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    grey = np.ascontiguousarray(np.broadcast_to(colours[..., :1], colours.shape))
    assert len(thumbnail_of(grey).uri) < len(thumbnail_of(colours).uri) / 2


@pytest.mark.parametrize(
    ("shape", "size"), [((224, 224), (112, 112)), ((65, 65), (65, 65)), ((100, 400), (112, 28))]
)
def test_a_large_picture_is_a_small_jpeg(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """Bounded in pixels and bytes, in its own proportions, and not to be shown in blocks."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = thumbnail_of(pixels)
    assert max(shape) > SMALL_SIDE
    assert not found.small
    assert found.uri.startswith("data:image/jpeg;base64,")
    assert decoded(found.uri).size == size
    assert max(size) <= THUMBNAIL_SIDE
    assert len(found.uri) < 20_000


def test_pictures_are_taken_once_each(finished_run: RunDirectory) -> None:
    """However often an image is asked for, and in whatever order."""
    data = open_run_data(finished_run)
    heard: list[tuple[int, int]] = []
    found = make_thumbnails(data, [7, 3, 7, 900], lambda done, total: heard.append((done, total)))
    assert list(found) == [3, 7, 900]
    assert heard == [(3, 3)]
    (pixels,) = data.chunks(np.array([900]))
    assert found[900] == thumbnail_of(pixels[0])
    assert make_thumbnails(data, []) == {}
