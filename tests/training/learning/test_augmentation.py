"""Augmentation: keyed by (seed, epoch, image) alone, within its bounds, and each operation does what it says."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.learning.augmentation import (
    AugmentationDraws,
    augment,
    mix_pairs,
    resize,
    shuffled_order,
)
from training.learning.recipe import Augmentation, Mixing

BLACK = torch.zeros(3, 1, 1)
EVERYTHING = Augmentation(
    flip="random",
    fill="reflect",
    crop_area=(0.5, 1.5),
    crop_aspect=1.3,
    rotation_degrees=10,
    translation=0.1,
    shear_degrees=5,
    blur=0.5,
    sharpen=0.5,
    brightness=0.2,
    contrast=0.2,
    saturation=0.2,
    erase=0.3,
)


def pictures(count: int, side: int = 16) -> Tensor:
    """Images that are all different and nowhere symmetric."""
    return torch.from_numpy(
        np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)
    )


@pytest.mark.parametrize(
    "bounds",
    [
        EVERYTHING,
        Augmentation(flip="random", pad=4),
        Augmentation(flip="alternate", pad=2, fill="reflect"),
    ],
)
def test_an_image_gets_the_same_pixels_in_any_batch(bounds: Augmentation) -> None:
    """Whatever neighbours it has, and in whatever slot: what a batch is made of depends on the number of processes."""
    images, draws = pictures(12), AugmentationDraws.of_epoch(12, seed=3, epoch=5, flip=bounds.flip)
    together = augment(images, draws.take(torch.arange(12)), bounds, 16, BLACK)
    for chosen in (torch.tensor([7]), torch.tensor([11, 2, 7]), torch.arange(12).flip(0)):
        alone = augment(images[chosen], draws.take(chosen), bounds, 16, BLACK)
        assert torch.allclose(alone, together[chosen], atol=1e-5)


def test_draws_differ_by_seed_epoch_and_image_and_repeat_for_the_same() -> None:
    """The three together are the key; nothing else is."""
    reference = AugmentationDraws.of_epoch(50, 0, 1)
    assert torch.equal(reference["crop_x"], AugmentationDraws.of_epoch(50, 0, 1)["crop_x"])
    for other in (AugmentationDraws.of_epoch(50, 1, 1), AugmentationDraws.of_epoch(50, 0, 2)):
        assert not torch.equal(reference["crop_x"], other["crop_x"])
    assert len(set(reference["crop_x"].tolist())) == 50
    assert not torch.equal(reference["crop_x"], reference["crop_y"])


def test_the_order_is_a_permutation_that_changes_with_the_epoch() -> None:
    """Each image once an epoch."""
    assert sorted(shuffled_order(100, 0, 1).tolist()) == list(range(100))
    assert shuffled_order(100, 0, 1).tolist() != shuffled_order(100, 0, 2).tolist()


def test_nothing_switched_on_changes_nothing() -> None:
    """An empty augmentation is the identity."""
    images = pictures(4)
    assert torch.equal(
        augment(images, AugmentationDraws.of_epoch(4, 0, 0, "none"), Augmentation(), 16, BLACK),
        images,
    )


def test_a_padded_crop_is_a_window_of_the_image() -> None:
    """Every crop is found in the padded image at an offset of 0 to twice the pad, and all offsets come."""
    image = pictures(1)
    draws = AugmentationDraws.of_epoch(400, 0, 0, "none")
    crops = augment(image.expand(400, -1, -1, -1), draws, Augmentation(pad=2), 16, BLACK)
    padded = torch.nn.functional.pad(image[0], (2, 2, 2, 2))
    seen = set()
    for crop in crops:
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if torch.equal(padded[:, y : y + 16, x : x + 16], crop)
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25


def test_what_comes_in_from_outside_has_the_fill() -> None:
    """The mean, the background or the image mirrored, in crops and in warps."""
    image, fill = torch.ones(200, 3, 8, 8), torch.tensor([5.0, 6.0, 7.0])[:, None, None]
    draws = AugmentationDraws.of_epoch(200, 0, 0, "none")
    filled = augment(image, draws, Augmentation(pad=3, fill="background"), 8, fill)
    assert set(filled[:, 0].unique().tolist()) == {1.0, 5.0}
    assert set(filled[:, 2].unique().tolist()) == {1.0, 7.0}
    assert torch.equal(augment(image, draws, Augmentation(pad=3, fill="reflect"), 8, BLACK), image)
    zoomed_out = Augmentation(crop_area=(2.0, 2.0), fill="reflect")
    assert torch.allclose(augment(image, draws, zoomed_out, 8, BLACK), image)
    background = augment(
        image, draws, Augmentation(crop_area=(4.0, 4.0), fill="background"), 8, fill
    )
    assert background[:, 1].max().item() == pytest.approx(6.0)


def test_alternating_flips_show_each_side_in_turn() -> None:
    """Epoch n and n + 1 are mirror images, n and n + 2 the same; half of the images begin mirrored."""
    flips = [AugmentationDraws.of_epoch(1000, 0, epoch, "alternate").flips for epoch in range(3)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert 400 < int(flips[0].sum()) < 600


@pytest.mark.parametrize(
    "bounds",
    [
        Augmentation(flip="random"),
        Augmentation(flip="random", crop_area=(0.999, 1.0), fill="reflect"),
    ],
)
def test_a_flip_mirrors_left_and_right(bounds: Augmentation) -> None:
    """By gather and by resampling alike."""
    image = torch.linspace(-1, 1, 8).expand(64, 3, 8, 8)
    draws = AugmentationDraws.of_epoch(64, 0, 0, "random")
    turned = augment(image, draws, bounds, 8, BLACK)
    assert torch.allclose(
        turned, torch.where(draws.flips[:, None, None, None], image.flip(3), image), atol=0.02
    )
    assert 0 < int(draws.flips.sum()) < 64


def test_a_warp_of_a_window_reads_that_window() -> None:
    """A quarter of the area is half of each side: a ramp comes out half as steep, from a place inside the image."""
    ramp = torch.linspace(-1, 1, 64).expand(50, 3, 64, 64)
    out = augment(
        ramp,
        AugmentationDraws.of_epoch(50, 0, 0, "none"),
        Augmentation(crop_area=(0.25, 0.25)),
        32,
        BLACK,
    )
    slopes = out[:, 0, 16, 1:] - out[:, 0, 16, :-1]
    assert torch.allclose(slopes, torch.full_like(slopes, 2 / 63), atol=2e-3)
    assert out.min() >= -1.01
    assert out.max() <= 1.01
    assert out[:, 0, 16, 0].std() > 0.1


def test_blur_goes_towards_the_mean_of_the_neighbours_inside_the_image() -> None:
    """As far as the draw says; what lies outside the image is not counted, as in avg_pool2d."""
    images, draws = torch.rand(40, 3, 16, 16), AugmentationDraws.of_epoch(40, 0, 0, "none")
    mean = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    expected = torch.lerp(images, mean, draws["blur"][:, None, None, None])
    assert torch.allclose(
        augment(images, draws, Augmentation(blur=1), 16, BLACK), expected, atol=1e-6
    )


def test_blur_and_sharpen_are_opposites() -> None:
    """One lowers the variation between neighbours, the other raises it."""
    images, draws = pictures(40), AugmentationDraws.of_epoch(40, 0, 0, "none")

    def roughness(bounds: Augmentation) -> float:
        out = augment(images, draws, bounds, 16, BLACK)
        return (out[..., 1:] - out[..., :-1]).abs().mean().item()

    assert (
        roughness(Augmentation(blur=1))
        < roughness(Augmentation())
        < roughness(Augmentation(sharpen=1))
    )


def test_erasing_wipes_a_box_of_a_share_of_the_images() -> None:
    """About the share of images that the recipe says, each of them in one rectangle."""
    out = augment(
        torch.ones(500, 3, 16, 16),
        AugmentationDraws.of_epoch(500, 0, 0, "none"),
        Augmentation(erase=0.4),
        16,
        BLACK,
    )
    touched = [image for image in out if (image == 0).any()]
    assert 140 < len(touched) < 220  # boxes whose centre is no pixel's, at the edge, may be empty
    for image in touched[:50]:
        rows, columns = torch.nonzero(image[0] == 0, as_tuple=True)
        assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)


@pytest.mark.parametrize(
    "mixing", [Mixing(mixup=1.0), Mixing(cutmix=1.0), Mixing(mixup=0.2, cutmix=1.0)]
)
def test_mixed_labels_are_the_shares_of_the_pixels(mixing: Mixing) -> None:
    """Images of 1 mixed with images of 0: the mean pixel is the label's weight; weights sum to 1; the odd one out is itself."""
    images = torch.tensor([1.0, 0.0] * 32 + [1.0])[:, None, None, None].expand(65, 3, 16, 16)
    labels = torch.tensor([1, 0] * 32 + [1])
    draws = AugmentationDraws.of_epoch(65, 0, 0, "none", mixing)
    mixed, targets = mix_pairs(images, labels, draws, mixing, classes=2)
    assert torch.allclose(targets.sum(1), torch.ones(65))
    assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert targets[-1].tolist() == [0.0, 1.0]
    assert ((targets > 0.01) & (targets < 0.99)).any()


def test_pairs_mix_alike_in_a_batch_and_in_its_even_parts() -> None:
    """What two processes see is what one sees."""
    mixing = Mixing(mixup=0.4, cutmix=1.0)
    images, labels, draws = (
        pictures(16),
        torch.arange(16) % 4,
        AugmentationDraws.of_epoch(16, 0, 0, "none", mixing),
    )
    whole, targets = mix_pairs(images, labels, draws, mixing, classes=4)
    for part in (torch.arange(0, 6), torch.arange(6, 16)):
        mixed, soft = mix_pairs(images[part], labels[part], draws.take(part), mixing, classes=4)
        assert torch.equal(mixed, whole[part])
        assert torch.equal(soft, targets[part])


def test_resized_images_keep_their_mean() -> None:
    """Smaller by antialias, not by leaving out pixels."""
    images = pictures(4, 32)
    small = resize(images, 24)
    assert small.shape == (4, 3, 24, 24)
    assert torch.allclose(small.mean((2, 3)), images.mean((2, 3)), atol=0.05)
    assert resize(images, 32) is images
