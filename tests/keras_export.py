"""Writes Keras's own ONNX export of its ResNet50 with random weights, and Keras's probabilities.

Run as a program, because Keras needs its own process: `python keras_export.py FOLDER SIDE CLASSES`
writes `keras.onnx` (NHWC, BGR as the caffe preset) and `keras.npz` (uint8 RGB images and answers).
"""

import os
import sys
from pathlib import Path

import numpy as np


def main(folder: Path, side: int, classes: int) -> None:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras  # noqa: PLC0415  the variable above must be set

    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(
        weights=None, classes=classes, input_shape=(side, side, 3)
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            random = np.random.default_rng(len(gamma))
            layer.set_weights(
                [
                    gamma,
                    beta + random.normal(0, 0.1, beta.shape),
                    mean,
                    variance * random.uniform(0.8, 1.5, mean.shape),
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
