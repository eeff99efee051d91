"""Normalization: exact statistics, which survive a weights file."""

import numpy as np
import pytest
import torch

from training.learning.normalization import Normalization

NOISE = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3)).astype(np.uint8)
PIXELS = NOISE // np.array([1, 2, 3], np.uint8)


def test_scalar_has_an_integer_mean() -> None:
    """It is the zero point of an INT8 model."""
    fitted = Normalization.fit("scalar", PIXELS)
    assert fitted.mean.item() == round(PIXELS.mean())
    assert fitted.std.item() == pytest.approx(PIXELS.std(), rel=1e-5)


def test_channels_has_a_mean_and_a_deviation_per_channel() -> None:
    fitted = Normalization.fit("channels", PIXELS)
    mean, std = PIXELS.mean((0, 1, 2)), PIXELS.std((0, 1, 2))
    assert fitted.mean.flatten().tolist() == pytest.approx(mean.tolist(), rel=1e-5)
    assert fitted.std.flatten().tolist() == pytest.approx(std.tolist(), rel=1e-5)


def test_pixels_subtracts_a_mean_image_and_divides_by_255() -> None:
    fitted = Normalization.fit("pixels", PIXELS)
    normalized = fitted(torch.from_numpy(PIXELS))
    assert torch.allclose(normalized.mean(0), torch.zeros(3, 6, 6), atol=1e-6)
    expected = (PIXELS[3, 2, 1] - PIXELS[:, 2, 1].mean(0)) / 255
    assert normalized[3, :, 2, 1].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize("kind", ["scalar", "channels", "pixels"])
def test_normalization_survives_a_weights_file_bit_for_bit(kind: str) -> None:
    fitted = Normalization.fit(kind, PIXELS)  # type: ignore[arg-type]
    read = Normalization.from_json(fitted.to_json())
    assert torch.equal(read(torch.from_numpy(PIXELS)), fitted(torch.from_numpy(PIXELS)))


def test_a_color_is_normalized_like_a_pixel() -> None:
    fitted = Normalization.fit("channels", PIXELS)
    pixel = torch.tensor([[[[10, 20, 30]]]], dtype=torch.uint8)
    assert torch.allclose(fitted.color((10, 20, 30)), fitted(pixel)[0], atol=1e-6)


def test_images_of_one_color_do_not_divide_by_zero() -> None:
    """The smallest deviation is 1."""
    gray = np.full((3, 4, 4, 3), 7, np.uint8)
    normalized = Normalization.fit("scalar", gray)(torch.from_numpy(gray + 1))
    assert torch.equal(normalized, torch.ones(3, 3, 4, 4))
