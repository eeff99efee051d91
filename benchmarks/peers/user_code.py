"""The code around the model: decode with Pillow, run with ONNX Runtime, return the top class.

All peers share it, so that only the servers differ. Environment variables describe model and setup.
"""

import io
import os

import numpy as np
import onnxruntime
from PIL import Image

RESIZE, CROP = int(os.environ["RESIZE"]), int(os.environ["CROP"])
WORKERS, THREADS = int(os.environ["WORKERS"]), int(os.environ["THREADS"])
MAX_BATCH_SIZE, PORT = int(os.environ["MAX_BATCH_SIZE"]), int(os.environ["PORT"])


def decode(data: bytes) -> np.ndarray:
    """uint8 `[CROP, CROP, 3]`, resized and cropped as torchvision's Resize and CenterCrop do."""
    return to_pixels(Image.open(io.BytesIO(data)))


def to_pixels(image: Image.Image) -> np.ndarray:
    image = image.convert("RGB")
    width, height = image.size
    if min(width, height) != RESIZE:
        size = (
            (RESIZE, int(RESIZE * height / width))
            if width <= height
            else (int(RESIZE * width / height), RESIZE)
        )
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - CROP) / 2), round((image.height - CROP) / 2)
    return np.asarray(image.crop((left, top, left + CROP, top + CROP)))


class TopClassModel:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        self.session = onnxruntime.InferenceSession(os.environ["MODEL_FILE"], options)

    def __call__(self, images: list[np.ndarray]) -> list[dict[str, float]]:
        """The most probable class of each image and its probability."""
        logits = self.session.run(["logits"], {"images": np.stack(images)})[0]
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = exponentials / exponentials.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"index": int(index), "score": float(row[index])}
            for index, row in zip(best, scores, strict=True)
        ]
