"""Density score: how far an image's embedding and scores are from those of the training images.

Three numbers are standardized on images that were not trained on, and added:

- the Mahalanobis distance of the embedding from the mean embedding,
- the Mahalanobis distance of the embedding, scaled to length 1, from the nearest class mean,
- the energy of the logits, at least -2, so that high confidence cannot outweigh a large distance.

In some models, the distances of known images depend on their energy. A linear regression of the
distances on the energy removes this dependence.

Training and the service compute the score with the same functions.

Sources: Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
Adversarial Attacks" (class means with one covariance); Liu et al. 2020, "Energy-based
Out-of-distribution Detection". `training/LOG.md` compares the combination with others.
"""

import io
import zipfile
from dataclasses import dataclass, field, fields
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from model_store.errors import ManifestError

MAX_FILE_BYTES: Final = 256 * 1024 * 1024
"""Largest size of a density file, stored and unpacked. A density of 4,096 dimensions fits."""
PARTS: Final = 3
DISTANCES: Final = 2
"""Number of distances of an embedding. Their standardized values are added."""
LOWEST_ENERGY: Final = np.float32(-2)
"""Smallest energy that counts: networks can be very confident about images unlike their data."""
_SHORTEST: Final = np.float32(1e-12)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Density:
    """The fitted values; all are float32.

    Attributes:
        whitening: `[dims, dims]`; whitened embeddings have the identity as covariance.
        mean: The whitened mean embedding, `[dims]`.
        unit_whitening: The same for embeddings of length 1, `[dims, dims]`, around class means.
        unit_means: The whitened class means of embeddings of length 1, `[classes, dims]`.
        center: Mean of the two distances and the energy on the fitted images, `[3]`.
        scale: Standard deviation of the distances around the regression, and of the energy, `[3]`.
        threshold: The model abstains from images with a higher density score, `[]`.
        energy_slope: How much the sum of the standardized distances of known images grows with one
            standard deviation of energy, `[]`. 0 in files without this array.
    """

    whitening: Floats
    mean: Floats
    unit_whitening: Floats
    unit_means: Floats
    center: Floats
    scale: Floats
    threshold: Floats
    energy_slope: Floats = field(default_factory=lambda: np.zeros((), np.float32))
    _projections: Floats = field(init=False, repr=False)
    _constants: Floats = field(init=False, repr=False)
    _inverse_scale: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check shapes and values. Raises ManifestError."""
        dims, classes = self.mean.size, len(np.atleast_1d(self.unit_means))
        shapes = {
            "whitening": (dims, dims),
            "mean": (dims,),
            "unit_whitening": (dims, dims),
            "unit_means": (classes, dims),
            "center": (PARTS,),
            "scale": (PARTS,),
            "threshold": (),
            "energy_slope": (),
        }
        for name, shape in shapes.items():
            values: Floats = getattr(self, name)
            if values.dtype != np.float32 or values.shape != shape:
                raise ManifestError(
                    f"the density's {name} is {values.dtype} {list(values.shape)}, expected "
                    f"float32 {list(shape)}"
                )
            if not np.isfinite(values).all():
                raise ManifestError(f"the density's {name} has NaN or infinity")
        if not (self.scale > 0).all():
            raise ManifestError("the density's scale must be positive")
        # Subtract the centre of the class means: squares of smaller numbers lose less precision.
        shift = self.unit_means.mean(axis=0)
        means = self.unit_means - shift
        products = np.column_stack(
            [
                2 * self.whitening @ self.mean,
                2 * self.unit_whitening @ shift,
                2 * self.unit_whitening @ means.T,
            ]
        )
        projections = np.hstack([self.whitening, self.unit_whitening, products])
        constants = [self.mean @ self.mean, shift @ shift]
        constants += ((means * means).sum(axis=1) + 2 * means @ shift).tolist()
        object.__setattr__(self, "_projections", projections)
        object.__setattr__(self, "whitening", projections[:, :dims])  # not a second copy
        object.__setattr__(self, "unit_whitening", projections[:, dims : 2 * dims])
        object.__setattr__(self, "_constants", np.array(constants, np.float32))
        object.__setattr__(self, "_inverse_scale", 1 / self.scale[:2])

    def distances(self, embeddings: Floats) -> Floats:
        """The two distances before they are standardized.

        Args:
            embeddings: float32 `[batch, dims]`.

        Returns:
            float32 `[batch, 2]`: from the mean, and from the nearest class mean.
        """
        # |u - m|² = |u|² - 2 u·m + |m|² needs three operations on large arrays. Each of them
        # releases the GIL to the event loop of the service, and then waits for it.
        images, dims = embeddings.shape
        projected = embeddings @ self._projections
        whitened = projected[:, : 2 * dims].reshape(images, 2, dims)
        squares, products = np.vecdot(whitened, whitened), projected[:, 2 * dims :]
        lengths = np.maximum(np.sqrt(np.vecdot(embeddings, embeddings)), _SHORTEST)[:, np.newaxis]
        products[:, 1:] /= lengths
        squares[:, 1:] /= lengths * lengths
        parts = self._constants - products
        distances: Floats = squares + parts[:, :2]
        distances[:, 1] += parts[:, 2:].min(axis=1)
        np.maximum(distances, 0, out=distances)
        np.sqrt(distances, out=distances)
        return distances

    def score(self, embeddings: Floats, energies: Floats) -> tuple[Floats, Floats]:
        """The parts of the density score; their sum is compared with the threshold.

        Args:
            embeddings: float32 `[batch, dims]`.
            energies: float32 `[batch]`, `model_store.uncertainty.energy` of the logits.

        Returns:
            The parts of the embedding and of the energy, float32 `[batch]`; usually near 0.
        """
        distances = self.distances(embeddings)
        distances -= self.center[:2]
        standard = energies - self.center[2]
        standard /= self.scale[2]
        of_embedding = distances @ self._inverse_scale
        of_embedding -= self.energy_slope * standard
        return of_embedding, np.maximum(standard, LOWEST_ENERGY)

    def to_bytes(self) -> bytes:
        """The content of a density file, an `.npz`."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in _ARRAYS})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a density file.

        Raises:
            ManifestError: The file is not a valid density. The message says why.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_FILE_BYTES:
                raise ManifestError(
                    f"the density unpacks to {size:,} bytes, the limit is {MAX_FILE_BYTES:,}"
                )
            with np.load(io.BytesIO(data), allow_pickle=False) as values:
                names = [name for name in _ARRAYS if name in values or name != "energy_slope"]
                return cls(**{name: values[name] for name in names})
        except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ManifestError(
                f"the density is not an .npz with the expected arrays: {error}"
            ) from None


_ARRAYS: Final = tuple(each.name for each in fields(Density) if each.init)
