"""Versions to publish in tests: the smallest valid one, and one that runs and is proven."""

import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pictures import png_chunk
from PIL import Image
from tiny_model import tiny_model_bytes

from model_store.manifest import (
    MANIFEST_NAME,
    DecodeTolerance,
    Golden,
    Input,
    Outputs,
    Preprocessing,
    Variant,
    now,
)
from model_store.preprocessing import prepare
from model_store.store import ModelStore

SIZE = 8
TOLERANCE = 1e-3
CLASS_NAMES = ("red", "green", "blue")
WEIGHTS = np.eye(3, dtype=np.float32) / 10  # so the logits are a tenth of the mean colour
PREPROCESSING = Preprocessing(resize=SIZE, crop_height=SIZE, crop_width=SIZE)
PLAIN_FILES: Mapping[str, bytes] = {
    "model.onnx": b"not run in these tests",
    "labels/names.txt": b"red green blue",
}


def plain_fields(**changes: Any) -> dict[str, Any]:
    """The smallest manifest, without golden images."""
    fields = {
        "created_at": now(),
        "input": Input(height=SIZE, width=SIZE),
        "outputs": Outputs(),
        "preprocessing": PREPROCESSING,
        "class_names": CLASS_NAMES,
        "max_batch_size": 8,
        "variants": (Variant(precision="fp32", file="model.onnx", tolerance=TOLERANCE),),
        "proof": "unproven",
    }
    return fields | changes


def publish_plain(store: ModelStore, model: str = "m", **changes: Any) -> int:
    """Publish a version whose model is only bytes."""
    return store.publish(model, plain_fields(**changes), PLAIN_FILES)


def encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png(
    width: int,
    height: int,
    depth: int,
    colour_type: int,
    rows: bytes = b"",
    *before: bytes,
    interlace: int = 0,
) -> bytes:
    """A hand-written PNG: filtered rows, and more chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, interlace)
    chunks = [
        png_chunk(b"IHDR", header),
        *before,
        png_chunk(b"IDAT", zlib.compress(rows)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def oriented(image: Image.Image, orientation: int) -> dict[str, Image.Exif]:
    """The option of `save` that writes an EXIF orientation."""
    exif = image.getexif()
    exif[0x0112] = orientation
    return {"exif": exif}


def scene(width: int = 24, height: int = 16) -> Image.Image:
    """A picture in which no two corners, channels or directions are alike."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 255 - 60 * x / width, 140 * y / height, 90 * ((x + 2 * y) % 3 == 0)
    pixels = np.stack([red, green, blue], axis=-1)
    pixels[: height // 3, : width // 4] = (20, 200, 90)
    return Image.fromarray(pixels.astype(np.uint8))


def animation(image_format: str) -> bytes:
    """The scene and, after it, another picture."""
    return encode(
        scene(), image_format, save_all=True, append_images=[scene().rotate(180)], duration=100
    )


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def proven_version(weights: np.ndarray = WEIGHTS) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Manifest and files of a version with two golden images that its model answers correctly."""
    images = {
        "upright.png": encode(scene(), "PNG"),
        "turned.png": encode(scene(), "PNG", **oriented(scene(), 6)),
    }
    files = {"model.onnx": tiny_model_bytes(SIZE, SIZE, weights)}
    blocks = []
    for name, data in images.items():
        pixels = prepare(data, PREPROCESSING)
        logits = pixels.reshape(-1, 3).mean(axis=0) @ WEIGHTS
        block = Golden(
            image=f"golden/{name}",
            pixels=f"golden/{name}.npy",
            decode_tolerance=DecodeTolerance(max_abs=2, mean_abs=0.25),
            logits=tuple(logits.tolist()),
        )
        files |= {block.image: data, block.pixels: npy(pixels)}
        blocks.append(block)
    return plain_fields(golden=tuple(blocks), proof="proven"), files


def publish_proven(store: ModelStore, model: str = "m", weights: np.ndarray = WEIGHTS) -> int:
    """Publish a version that runs; other `weights` contradict its golden logits."""
    return store.publish(model, *proven_version(weights))


def rewrite_manifest(version_directory: Path, change: Mapping[str, Any]) -> None:
    """Change top-level fields of a sealed manifest, as no tool of ours would."""
    path = version_directory / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every path under `root` with its bytes, to see that nothing has changed."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }
