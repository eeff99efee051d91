"""A minimal server for comparison: FastAPI, Pillow and ONNX Runtime around the same model."""

import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

version = Path(os.environ["MODEL_DIRECTORY"])
manifest = json.loads((version / "manifest.json").read_bytes())
labels = manifest["class_names"]
size = (manifest["input"]["width"], manifest["input"]["height"])
session = onnxruntime.InferenceSession(version / "model.onnx")
app = FastAPI()


@app.get("/health/ready")
def ready() -> dict[str, str]:
    return {"status": "ready"}


@app.post("/v1/predict")
async def predict(request: Request) -> dict[str, object]:
    """Return the most probable label of one image."""
    image = (
        Image.open(io.BytesIO(await request.body()))
        .convert("RGB")
        .resize(size, Image.Resampling.BILINEAR)
    )
    logits = session.run(["logits"], {"images": np.asarray(image)[np.newaxis]})[0][0]
    return {"label": labels[int(logits.argmax())]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
