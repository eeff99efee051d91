"""Normalisation: exact means and deviations, kept through text."""

import numpy as np
import pytest
import torch

from training.learning.normalization import Normalization

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3)).astype(np.uint8) // np.array(
    [1, 2, 3], np.uint8
)


def test_scalar_has_a_whole_grey_level_as_its_mean() -> None:
    """An INT8 model takes the mean as its zero point, so it must be an integer."""
    fitted = Normalization.fit("scalar", PIXELS)
    assert fitted.mean.item() == round(PIXELS.mean())
    assert fitted.std.item() == pytest.approx(PIXELS.std(), rel=1e-5)


def test_channels_have_a_pair_each() -> None:
    """In the order RGB."""
    fitted = Normalization.fit("channels", PIXELS)
    assert fitted.mean.flatten().tolist() == pytest.approx(
        PIXELS.mean((0, 1, 2)).tolist(), rel=1e-5
    )
    assert fitted.std.flatten().tolist() == pytest.approx(PIXELS.std((0, 1, 2)).tolist(), rel=1e-5)


def test_pixels_subtract_a_mean_image() -> None:
    """He et al. 2015: the per-pixel mean, and no deviation."""
    fitted = Normalization.fit("pixels", PIXELS)
    normalised = fitted(torch.from_numpy(PIXELS))
    assert torch.allclose(normalised.mean(0), torch.zeros(3, 6, 6), atol=1e-6)
    assert normalised.max() <= 1


@pytest.mark.parametrize("kind", ["scalar", "channels", "pixels"])
def test_normalisation_survives_a_weights_file(kind: str) -> None:
    """To the bit."""
    fitted = Normalization.fit(kind, PIXELS)  # type: ignore[arg-type]
    read = Normalization.from_json(fitted.to_json())
    assert torch.equal(read(torch.from_numpy(PIXELS)), fitted(torch.from_numpy(PIXELS)))


def test_images_of_one_colour_do_not_divide_by_zero() -> None:
    """A deviation of nothing counts as one grey level."""
    assert torch.isfinite(
        Normalization.fit("scalar", np.full((3, 4, 4, 3), 7, np.uint8))(
            torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
        )
    ).all()
