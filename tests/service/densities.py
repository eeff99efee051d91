"""A density for the model of colours: its embedding is the mean colour of an image."""

import numpy as np
from colour_model import COLOURS

from model_store.density import Density

UNITS = np.array(list(COLOURS.values()), np.float32)
UNITS /= np.linalg.norm(UNITS, axis=1, keepdims=True)
# The distance of a colour from grey, and that of its direction from the nearest class.
DENSITY = Density(
    whitening=np.eye(3, dtype=np.float32) / 64,
    mean=np.full(3, 127 / 64, np.float32),
    unit_whitening=np.eye(3, dtype=np.float32),
    unit_means=UNITS,
    center=np.array([3.4, 0, -6], np.float32),
    scale=np.array([1, 0.1, 1], np.float32),
    threshold=np.float32(2.5).reshape(()),
)
