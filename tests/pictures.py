"""Small pictures for tests, all different, and folders of them."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 12, height: int = 10) -> Image.Image:
    """Noise in RGB, the same for the same seed."""
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def put(root: Path, files: Mapping[str, bytes | int | Image.Image]) -> Path:
    """Write files under `root`: bytes, images, or seeds of pictures."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            (picture(content) if isinstance(content, int) else content).save(path)
    return root


def numbered(folder: str, count: int, first: int = 0) -> dict[str, int]:
    """`count` PNGs in a folder, each a picture of its own."""
    return {f"{folder}/{number}.png": first + number for number in range(count)}
