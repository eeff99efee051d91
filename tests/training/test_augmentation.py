"""Augmentation: drawn from (seed, epoch, image) alone, and a right affine map."""

import torch

from training.augmentation import affine, draws, shuffled
from training.recipe import Augmentation

NOTHING = Augmentation(rotation_degrees=0, translation=0, scale=0, shear_degrees=0)
SOME = Augmentation(rotation_degrees=12, translation=0.1, scale=0.1, shear_degrees=8)


def test_draws_belong_to_seed_and_epoch() -> None:
    """The same pair gives the same draws and order; another epoch or seed gives others."""
    assert torch.equal(draws(10, 1, 2), draws(10, 1, 2))
    assert not torch.equal(draws(10, 1, 2), draws(10, 1, 3))
    assert not torch.equal(draws(10, 1, 2), draws(10, 2, 2))
    assert sorted(shuffled(10, 1, 2).tolist()) == list(range(10))
    assert not torch.equal(shuffled(100, 1, 2), shuffled(100, 1, 3))


def test_an_image_gets_the_same_pixels_in_any_batch() -> None:
    """Mapped alone or among others, an image comes out the same."""
    images, draw = torch.rand(8, 3, 16, 16), draws(8, 0, 1)
    together = affine(images, draw, SOME, fill=0.0)
    assert torch.allclose(affine(images[3:4], draw[3:4], SOME, fill=0.0), together[3:4], atol=1e-6)
    assert not torch.allclose(together, images)


def test_bounds_of_zero_change_nothing() -> None:
    """The map is the identity, to float precision."""
    images = torch.rand(4, 3, 16, 16)
    assert torch.allclose(affine(images, draws(4, 0, 1), NOTHING, fill=0.0), images, atol=1e-5)


def test_what_comes_in_from_outside_is_the_fill_value() -> None:
    """A picture moved to the side leaves background behind it, not black of another level."""
    draw = torch.zeros(1, 6)
    draw[0, 1] = 1.0
    moved = affine(torch.full((1, 3, 10, 10), 5.0), draw, NOTHING.model_copy(update={"translation": 0.5}), fill=-2.0)
    assert moved[0, 0, 0, 0] == 5.0
    assert moved[0, 0, 0, -1] == -2.0
