"""Keras's own ONNX export of its ResNet50 with random weights, and what Keras answers: a program, for Keras wants its own process.

`python keras_export.py FOLDER SIDE CLASSES` writes `keras.onnx` (NHWC, caffe's BGR inside its pixels' range) and `keras.npz`
(images, uint8 RGB, with Keras's own probabilities).
"""

import os
import sys
from pathlib import Path

import numpy as np


def main(folder: Path, side: int, classes: int) -> None:
    """Write both files."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # noqa: PLC0415  the variable above must be set

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(
        weights=None, classes=classes, input_shape=(side, side, 3)
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            chance = np.random.default_rng(len(gamma))
            layer.set_weights(
                [
                    gamma,
                    beta + chance.normal(0, 0.1, beta.shape),
                    mean,
                    variance * chance.uniform(0.8, 1.5, mean.shape),
                ]
            )
    images = np.random.default_rng(1).integers(
        0, 256, (3, side, side, 3), dtype=np.uint8
    ) // np.array([1, 2, 4], np.uint8)
    answers = network.predict(
        keras.applications.resnet.preprocess_input(images.astype(np.float32)), verbose=0
    )
    np.savez(folder / "keras.npz", images=images, answers=answers)
    network.export(str(folder / "keras.onnx"), format="onnx", verbose=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
