"""The canvas of WebP images by their header."""

import io

import pytest
from PIL import Image

from model_store.image_header import webp_canvas


@pytest.mark.parametrize("size", [(1, 1), (300, 2), (16383, 1)])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGBA", {}),
        ("RGB", {"lossless": True}),
        ("RGBA", {"lossless": True, "exact": True}),
    ],
    ids=["lossy", "extended", "lossless", "lossless with alpha"],
)
def test_webp_canvas_is_read_without_opening(
    size: tuple[int, int], mode: str, options: dict[str, object]
) -> None:
    """In all three kinds of WebP files."""
    buffer = io.BytesIO()
    image = Image.new(mode, size, (10, 200, 30, 40)[: len(mode)])
    image.save(buffer, "WEBP", **options)
    assert webp_canvas(buffer.getvalue()) == size


def test_webp_without_a_canvas_has_none() -> None:
    """Cut headers, a width of 0, and other formats."""
    head = b"RIFF\x1a\0\0\0WEBP"
    for data in (head + b"VP8 " + bytes(18), head + b"ANIM" + bytes(18), head + b"VP8X", b"GIF89a"):
        assert webp_canvas(data) is None
