"""Publishes ResNet-50 with random weights into build/bench: fp32 alone, and with INT8.

Needs the training environment. Random weights do not affect the speed.
"""

from pathlib import Path

import numpy as np
import onnx_ir
import torch
from machine import ROOT

from model_store.manifest import Input, Preprocessing, Variant, now
from model_store.preprocessing import prepare
from model_store.store import ModelStore
from training.learning.networks import build_network
from training.learning.normalization import Normalization
from training.quantization.int8 import calibrate
from training.steps.export import OPSET, OUTPUT_NAMES, OUTPUTS, ExportModule

BUILD = ROOT / "build/bench"
CLASSES = 1000
PREPROCESSING = Preprocessing(resize=256, crop_height=224, crop_width=224)
FILES = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
TOLERANCE = 1.0  # not used: the version is not proven


def random_resnet50(side: int) -> bytes:
    """The bytes of the exported ONNX file, with folded batch norms."""
    torch.manual_seed(0)
    gray = torch.full((3, 1, 1), 128.0)
    served = ExportModule(
        build_network("resnet50", CLASSES).eval(), Normalization(gray, gray / 2)
    ).eval()
    program = torch.onnx.export(
        served,
        (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(OUTPUT_NAMES),
        dynamic_shapes=({0: "batch"},),
        external_data=False,
        verbose=False,
    )
    return onnx_ir.to_proto(program.model).SerializeToString()


def publish(store: Path, variants: dict[str, bytes]) -> None:
    """Publish an unproven model `resnet50` with these files by precision."""
    manifest = {
        "created_at": now(),
        "input": Input(height=224, width=224),
        "outputs": OUTPUTS,
        "preprocessing": PREPROCESSING,
        "class_names": tuple(f"class {number}" for number in range(CLASSES)),
        "max_batch_size": 32,
        "variants": tuple(
            Variant(precision=name, file=FILES[name], tolerance=TOLERANCE) for name in variants
        ),
        "proof": "unproven",
    }
    published = ModelStore(store)
    version = published.publish(
        "resnet50", manifest, {FILES[name]: data for name, data in variants.items()}
    )
    published.promote("resnet50", version, why="benchmark")


def main() -> None:
    """Publish the models unless they exist."""
    if (BUILD / "resnet50-int8/resnet50/1").exists():
        return
    print("making ResNet-50 and its INT8 variant: a minute", flush=True)
    network = random_resnet50(224)
    photo = prepare((ROOT / "docs/images/cat.jpg").read_bytes(), PREPROCESSING)
    noise = np.random.default_rng(0).integers(0, 256, (7, *photo.shape), np.uint8)
    publish(BUILD / "resnet50", {"fp32": network})
    publish(
        BUILD / "resnet50-int8",
        {"fp32": network, "int8": calibrate(network, [np.stack([photo, *noise])]).quantize()},
    )


if __name__ == "__main__":
    main()
