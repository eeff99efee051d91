"""A model that classifies seven colours, as good, altered or deviating versions in a real store."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image
from tiny_model import tiny_model_bytes

from model_store.density import Density
from model_store.manifest import (
    Calibration,
    DecodeTolerance,
    Golden,
    Input,
    Outputs,
    Preprocessing,
    SealedDensity,
    Variant,
    now,
)
from model_store.preprocessing import prepare
from model_store.provenance import Metrics, Training
from model_store.store import ModelStore

MODEL = "colours"
SIZE = 8
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
}
CLASS_NAMES = tuple(COLOURS)
PREPROCESSING = Preprocessing(resize=SIZE, crop_height=SIZE, crop_width=SIZE)


def _directions() -> np.ndarray:
    # With this scale a plain colour scores about 0.6, so that rounding does not hide the others.
    columns = np.array(list(COLOURS.values()), dtype=np.float32).T
    return columns / np.linalg.norm(columns, axis=0) / 50


WEIGHTS = _directions()


def plain(colour: str, image_format: str = "PNG", size: tuple[int, int] = (16, 12)) -> bytes:
    """An encoded image of one colour."""
    return encode(Image.new("RGB", size, COLOURS[colour]), image_format)


def encode(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def publish(
    store: ModelStore,
    model: str = MODEL,
    *,
    weights: np.ndarray = WEIGHTS,
    file: bytes | None = None,
    golden_weights: np.ndarray = WEIGHTS,
    golden: Sequence[str] = ("red", "cyan"),
    max_batch_size: int = 32,
    calibration: Calibration | None = None,
    others: Mapping[Variant, bytes] = MappingProxyType({}),
    extra: Mapping[str, bytes] = MappingProxyType({}),
    proof: str = "proven",
    class_names: Sequence[str] = CLASS_NAMES,
    embedding: bool = False,
    kind: str = "logits",
    density: Density | None = None,
    training: Training | None = None,
    metrics: Metrics | None = None,
) -> int:
    """Publish a version and return its number.

    If `weights` differ from `golden_weights`, its golden proof fails. `file` replaces the model
    with these weights. `others` are variants besides fp32 with the bytes of their files, `extra`
    are more files. With `embedding` the mean colour is the embedding, which `density`
    needs. `kind` says what the manifest calls the scores.
    """
    if density:
        extra = {**extra, "density.npz": density.to_bytes()}
    file = file or tiny_model_bytes(SIZE, SIZE, weights, embedding=embedding)
    files = {"model.onnx": file, **extra}
    blocks = []
    for colour in golden:
        image = plain(colour)
        pixels = prepare(image, PREPROCESSING)
        array = io.BytesIO()
        np.save(array, pixels, allow_pickle=False)
        block = Golden(
            image=f"golden/{colour}.png",
            pixels=f"golden/{colour}.npy",
            decode_tolerance=DecodeTolerance(max_abs=2, mean_abs=0.25),
            logits=tuple((pixels.reshape(-1, 3).mean(axis=0) @ golden_weights).tolist()),
        )
        files |= {block.image: image, block.pixels: array.getvalue()}
        blocks.append(block)
    manifest = {
        "created_at": now(),
        "input": Input(height=SIZE, width=SIZE),
        "outputs": Outputs(kind=kind, embedding="embedding" if embedding else None),
        "preprocessing": PREPROCESSING,
        "class_names": tuple(class_names),
        "max_batch_size": max_batch_size,
        "variants": (Variant(precision="fp32", file="model.onnx", tolerance=1e-3), *others),
        "golden": tuple(blocks),
        "calibration": calibration,
        "density": SealedDensity(file="density.npz") if density else None,
        "proof": proof,
        "training": training,
        "metrics": metrics,
    }
    return store.publish(
        model, manifest, files | {variant.file: data for variant, data in others.items()}
    )


def publish_deviating(store: ModelStore, model: str = MODEL) -> int:
    """Publish a version that verifies but fails its golden proof: it sees blue instead of red."""
    return publish(store, model, weights=WEIGHTS[::-1].copy())


def alter(store: ModelStore, number: int, model: str = MODEL) -> None:
    """Flip one bit of a sealed version's model file, so that it no longer verifies."""
    path = store.root / model / str(number) / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def make_store(root: Path, builtin_root: Path | None = None) -> ModelStore:
    """An empty store, without the models that ship with the project."""
    root.mkdir(parents=True)
    return ModelStore(root, builtin_root)


def labels(results: Iterable[dict[str, list[dict[str, object]]]]) -> list[object]:
    """The top label of each result."""
    return [result["predictions"][0]["label"] for result in results]
