"""Augmentation: keyed by (seed, epoch, image) alone, and each operation does what it says."""

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


def noise(count: int, side: int = 16) -> Tensor:
    """Images that are all different and nowhere symmetric."""
    return torch.from_numpy(
        np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)
    )


def unflipped(count: int, mixing: Mixing | None = None) -> AugmentationDraws:
    return AugmentationDraws.of_epoch(count, 0, 0, "none", mixing)


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        Augmentation(flip="random", pad=4),
        Augmentation(flip="alternate", pad=2, fill="reflect"),
    ],
)
def test_an_image_gets_the_same_pixels_in_any_batch(settings: Augmentation) -> None:
    """The division into batches depends on the number of processes."""
    images = noise(12)
    draws = AugmentationDraws.of_epoch(12, seed=3, epoch=5, flip=settings.flip)
    together = augment(images, draws.take(torch.arange(12)), settings, (16, 16), BLACK)
    for chosen in (torch.tensor([7]), torch.tensor([11, 2, 7]), torch.arange(12).flip(0)):
        alone = augment(images[chosen], draws.take(chosen), settings, (16, 16), BLACK)
        assert torch.allclose(alone, together[chosen], atol=1e-5)


MIXING = Mixing(mixup=0.4, cutmix=1.0)


@pytest.mark.parametrize("flip", ["random", "alternate"])
def test_draws_depend_on_seed_and_epoch_and_on_nothing_else(flip: str) -> None:
    """Positions, flips and mixing weights alike."""

    def draws(seed: int, epoch: int) -> list[Tensor]:
        made = AugmentationDraws.of_epoch(500, seed, epoch, flip, Mixing(mixup=0.4))
        return [made["crop_x"], made.flips, made.mixes]

    reference = draws(0, 1)
    for values, again in zip(reference, draws(0, 1), strict=True):
        assert torch.equal(values, again)
    for other in (draws(1, 1), draws(0, 2)):
        for values, others in zip(reference, other, strict=True):
            assert not torch.equal(values, others)


def test_draws_differ_between_images_and_columns() -> None:
    draws = AugmentationDraws.of_epoch(50, 0, 1)
    assert len(set(draws["crop_x"].tolist())) == 50
    assert not torch.equal(draws["crop_x"], draws["crop_y"])


def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    orders = [shuffled_order(100, *key).tolist() for key in ((0, 1), (0, 2), (1, 1))]
    for order in orders:
        assert sorted(order) == list(range(100))
    assert len(set(map(tuple, orders))) == 3
    assert shuffled_order(100, 0, 1).tolist() == orders[0]


def test_the_default_augmentation_changes_nothing() -> None:
    images = noise(4)
    assert torch.equal(augment(images, unflipped(4), Augmentation(), (16, 16), BLACK), images)


def test_a_padded_crop_is_a_window_of_the_padded_image() -> None:
    """At offsets of 0 to twice the padding, all of which occur."""
    image = noise(1)
    settings = Augmentation(pad=2)
    crops = augment(image.expand(400, -1, -1, -1), unflipped(400), settings, (16, 16), BLACK)
    padded = functional.pad(image[0], (2, 2, 2, 2))
    windows = padded.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4).reshape(25, -1)
    matches = (crops.reshape(400, 1, -1) == windows).all(2)
    assert matches.sum(1).tolist() == [1] * 400
    assert matches.any(0).all()


@pytest.mark.parametrize(("side", "top", "left"), [(12, 2, 4), (13, 2, 4), (8, 0, 2)])
def test_a_crop_without_padding_is_the_middle_of_the_image(side: int, top: int, left: int) -> None:
    images = noise(3, side)
    cropped = augment(images, unflipped(3), Augmentation(), (8, side - 2 * left), BLACK)
    assert torch.equal(cropped, images[:, :, top : top + 8, left : side - left])


def test_pixels_outside_the_image_have_the_fill() -> None:
    """The given color or the reflected image, in crops and in warps."""
    image, fill = torch.ones(200, 3, 8, 8), torch.tensor([5.0, 6.0, 7.0])[:, None, None]
    draws = unflipped(200)
    filled = augment(image, draws, Augmentation(pad=3, fill="background"), (8, 8), fill)
    assert set(filled[:, 0].unique().tolist()) == {1.0, 5.0}
    assert set(filled[:, 2].unique().tolist()) == {1.0, 7.0}
    assert torch.equal(
        augment(image, draws, Augmentation(pad=3, fill="reflect"), (8, 8), BLACK), image
    )
    reflected = Augmentation(crop_area=(2.0, 2.0), fill="reflect")
    assert torch.allclose(augment(image, draws, reflected, (8, 8), BLACK), image)
    shrunk = Augmentation(crop_area=(4.0, 4.0), fill="background")
    background = augment(image, draws, shrunk, (8, 8), fill)
    assert background[:, 1].max().item() == pytest.approx(6.0)
    assert background[:, 1].mean().item() == pytest.approx((1 + 3 * 6) / 4, abs=0.2)


def test_alternating_flips_show_each_side_in_turn() -> None:
    """Epochs n and n + 2 are equal; half of the images start mirrored."""
    flips = [AugmentationDraws.of_epoch(1000, 0, epoch, "alternate").flips for epoch in range(3)]
    assert torch.equal(flips[0], ~flips[1])
    assert torch.equal(flips[0], flips[2])
    assert 400 < int(flips[0].sum()) < 600


def test_random_flips_mirror_half_of_the_images() -> None:
    assert 400 < int(AugmentationDraws.of_epoch(1000, 0, 0, "random").flips.sum()) < 600
    assert not AugmentationDraws.of_epoch(1000, 0, 0, "none").flips.any()


@pytest.mark.parametrize(
    "settings",
    [
        Augmentation(flip="random"),
        Augmentation(flip="random", crop_area=(0.999, 1.0), fill="reflect"),
    ],
    ids=["gather", "resampling"],
)
def test_a_flip_mirrors_left_and_right(settings: Augmentation) -> None:
    image = torch.linspace(-1, 1, 8).expand(64, 3, 8, 8)
    draws = AugmentationDraws.of_epoch(64, 0, 0, "random")
    augmented = augment(image, draws, settings, (8, 8), BLACK)
    expected = torch.where(draws.flips[:, None, None, None], image.flip(3), image)
    assert torch.allclose(augmented, expected, atol=0.02)


def test_a_crop_by_area_magnifies_a_window_inside_the_image() -> None:
    """A quarter of the area is half of each side: a ramp becomes half as steep."""
    ramp = torch.linspace(-1, 1, 64).expand(50, 3, 64, 64)
    settings = Augmentation(crop_area=(0.25, 0.25))
    for horizontal in (True, False):
        images = ramp if horizontal else ramp.transpose(2, 3)
        out = augment(images, unflipped(50), settings, (32, 32), BLACK)
        rows = out[:, 0, 16] if horizontal else out[:, 0, :, 16]
        slopes = rows[:, 1:] - rows[:, :-1]
        assert torch.allclose(slopes, torch.full_like(slopes, 2 / 63), atol=2e-3)
        assert out.abs().max() <= 1.01
        assert 0.2 < rows[:, 0].std() < 0.4  # uniform over half of the image


def test_a_rotation_turns_by_at_most_the_given_angle_to_both_sides() -> None:
    """Measured as the direction of a ramp's gradient in the middle of the image."""
    ramp = torch.linspace(-1, 1, 32).expand(200, 3, 32, 32)
    settings = Augmentation(rotation_degrees=30, fill="reflect")
    out = augment(ramp, unflipped(200), settings, (32, 32), BLACK)[:, 0]
    x, y = out[:, 16, 17] - out[:, 16, 15], out[:, 17, 16] - out[:, 15, 16]
    degrees = torch.rad2deg(torch.atan2(y, x))
    assert degrees.abs().max() < 30.5
    assert degrees.min() < -25
    assert degrees.max() > 25


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_shear_slants_by_at_most_the_given_angle_to_both_sides(axis: str) -> None:
    """A ramp along x stays as steep along x, and becomes steep along y, or the other way round."""
    ramp = torch.linspace(-1, 1, 64).expand(200, 3, 64, 64)
    images = ramp if axis == "x" else ramp.transpose(2, 3)
    settings = Augmentation(shear_degrees=20, fill="reflect")
    out = augment(images, unflipped(200), settings, (64, 64), BLACK)[:, 0]
    out = out if axis == "x" else out.transpose(1, 2)
    across = (out[:, 36, 32] - out[:, 28, 32]) / 8 / (2 / 63)
    degrees = torch.rad2deg(torch.atan(across))
    assert degrees.abs().max() < 21
    assert degrees.min() < -15
    assert degrees.max() > 15


def test_an_aspect_stretches_one_side_and_shrinks_the_other() -> None:
    """By at most the square root of the ratio each; the area stays."""
    ramp = torch.linspace(-1, 1, 64).expand(200, 3, 64, 64)
    settings = Augmentation(crop_aspect=2, fill="reflect")
    slopes = []
    for images in (ramp, ramp.transpose(2, 3)):
        out = augment(images, unflipped(200), settings, (64, 64), BLACK)[:, 0]
        out = out if images is ramp else out.transpose(1, 2)
        slopes.append((out[:, 32, 36] - out[:, 32, 28]) / 8 / (2 / 63))
    assert torch.allclose(slopes[0] * slopes[1], torch.ones(200), atol=0.05)
    assert 0.68 < slopes[0].min() < 0.75
    assert 1.35 < slopes[0].max() < 1.45


def test_a_window_of_any_aspect_lies_inside_the_image() -> None:
    """Pixels at the border may blend with the zeros outside."""
    settings = Augmentation(crop_area=(0.2, 0.2), crop_aspect=4)
    out = augment(torch.ones(300, 3, 64, 64), unflipped(300), settings, (16, 16), BLACK)
    assert out.min() > 0.2


def test_a_translation_shifts_by_at_most_its_fraction() -> None:
    ramp = torch.linspace(-1, 1, 32).expand(200, 3, 32, 32)
    out = augment(ramp, unflipped(200), Augmentation(translation=0.25), (32, 32), BLACK)
    middle = out[:, 0, 16, 15:17].mean(1)
    assert middle.abs().max() < 0.53
    assert middle.min() < -0.4
    assert middle.max() > 0.4


def test_blur_blends_with_the_mean_of_the_neighbors_inside_the_image() -> None:
    """By the drawn amount; pixels outside the image do not count."""
    images, draws = noise(40), unflipped(40)
    mean = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    expected = torch.lerp(images, mean, draws["blur"][:, None, None, None])
    blurred = augment(images, draws, Augmentation(blur=1), (16, 16), BLACK)
    assert torch.allclose(blurred, expected, atol=1e-5)
    expected = torch.lerp(images, mean, (draws["blur"] - 1)[:, None, None, None])
    sharpened = augment(images, draws, Augmentation(sharpen=1), (16, 16), BLACK)
    assert torch.allclose(sharpened, expected, atol=1e-5)


def statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, spread of gray values, and mean distance from gray, of each image."""
    gray = images.mean(1, keepdim=True)
    return images.mean((1, 2, 3)), gray.std((1, 2, 3)), (images - gray).abs().mean((1, 2, 3))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_color_operation_changes_its_own_statistic_within_its_bound(name: str) -> None:
    """The mean, the spread of gray values, or the distance from gray."""
    images = noise(200)
    out = augment(images, unflipped(200), Augmentation(**{name: 0.5}), (16, 16), BLACK)
    (mean, spread, chroma), (new_mean, new_spread, new_chroma) = map(statistics, (images, out))
    shift, contrast, saturation = new_mean - mean, new_spread / spread, new_chroma / chroma
    changed = {"brightness": shift + 1, "contrast": contrast, "saturation": saturation}[name]
    assert 0.5 <= changed.min() < 0.6
    assert 1.4 < changed.max() <= 1.5
    if name != "brightness":
        assert shift.abs().max() < 1e-5
    if name != "contrast":
        assert (contrast - 1).abs().max() < 1e-4
    if name == "brightness":
        assert (saturation - 1).abs().max() < 1e-4


def test_erasing_sets_a_box_of_some_images_to_zero() -> None:
    """As many images as the probability says, with 2 % to a third of the area each."""
    draws = unflipped(500)
    out = augment(torch.ones(500, 3, 16, 16), draws, Augmentation(erase=0.4), (16, 16), BLACK)
    erased = [image for image in out if (image == 0).any()]
    assert 140 < len(erased) < 220  # a box at the border may contain no pixel
    areas = []
    for image in erased:
        rows, columns = torch.nonzero(image[0] == 0, as_tuple=True)
        assert len(rows) == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        areas.append(len(rows) / 256)
    assert 0.2 < max(areas) < 0.37
    assert np.mean(areas) == pytest.approx(0.14, abs=0.04)  # 0.18, less what is outside


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=0.4)])
def test_mixing_weights_have_a_beta_distribution(mixing: Mixing) -> None:
    """Beta(a, a) has a mean of 1/2 and a variance of 1 / (4 (2 a + 1))."""
    mixes = unflipped(5000, mixing).mixes
    assert mixes.mean().item() == pytest.approx(0.5, abs=0.02)
    assert mixes.var().item() == pytest.approx(1 / (4 * 1.8), abs=0.01)


@pytest.mark.parametrize(
    "mixing", [Mixing(mixup=1.0), Mixing(cutmix=1.0), Mixing(mixup=0.2, cutmix=1.0)]
)
def test_mixed_labels_are_the_fractions_of_the_pixels(mixing: Mixing) -> None:
    """Images of ones mixed with images of zeros: the mean pixel is the label's weight."""
    images = torch.tensor([1.0, 0.0] * 32 + [1.0])[:, None, None, None].expand(65, 3, 16, 16)
    labels = torch.tensor([1, 0] * 32 + [1])
    mixed, targets = mix_pairs(images, labels, unflipped(65, mixing), mixing, classes=2)
    assert torch.allclose(targets.sum(1), torch.ones(65))
    assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert targets[-1].tolist() == [0.0, 1.0]
    assert ((targets > 0.01) & (targets < 0.99)).any()


def test_mixup_blends_and_cutmix_cuts_half_of_the_images_each() -> None:
    images = torch.tensor([1.0, 0.0] * 100)[:, None, None, None].expand(200, 3, 16, 16)
    labels = torch.tensor([1, 0] * 100)
    mixing = Mixing(mixup=1.0, cutmix=1.0)
    mixed, _ = mix_pairs(images, labels, unflipped(200, mixing), mixing, classes=2)
    values = [image.unique().tolist() for image in mixed]
    blended = sum(len(value) == 1 and 0 < value[0] < 1 for value in values)
    assert 70 < blended < 130
    assert all(set(value) <= {0.0, 1.0} for value in values if len(value) > 1)


def test_blended_images_have_the_weights_of_mixup_and_cut_images_those_of_cutmix() -> None:
    """Beta(a, a) has a variance of 1 / (4 (2 a + 1)), here 0.18 and 0.02."""
    images = torch.tensor([1.0, 0.0] * 1000)[:, None, None, None].expand(2000, 3, 16, 16)
    mixing = Mixing(mixup=0.2, cutmix=6.0)
    draws = unflipped(2000, mixing)
    mixed, _ = mix_pairs(images, torch.zeros(2000).long(), draws, mixing, classes=2)
    is_blended = (mixed == mixed[:, :1, :1, :1]).all((1, 2, 3))
    assert draws.mixes[is_blended].var().item() == pytest.approx(1 / (4 * 1.4), abs=0.02)
    assert draws.mixes[~is_blended].var().item() == pytest.approx(1 / (4 * 13), abs=0.005)


def test_pairs_mix_the_same_way_in_a_batch_and_in_its_even_parts() -> None:
    """The parts are what two processes get."""
    images, labels, draws = noise(16), torch.arange(16) % 4, unflipped(16, MIXING)
    whole, targets = mix_pairs(images, labels, draws, MIXING, classes=4)
    for part in (torch.arange(0, 6), torch.arange(6, 16)):
        mixed, soft = mix_pairs(images[part], labels[part], draws.take(part), MIXING, classes=4)
        assert torch.equal(mixed, whole[part])
        assert torch.equal(soft, targets[part])


def test_resized_images_are_antialiased() -> None:
    """Every fourth column is 1; bilinear sampling alone would miss them all."""
    columns = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(16).expand(1, 3, 64, 64)
    small = resize(columns, (16, 16))
    assert small.shape == (1, 3, 16, 16)
    assert (small[..., 1:-1] - 0.25).abs().max() < 0.1
    assert resize(columns, (64, 64)) is columns


WIDE = (8, 24)


def ramp(height: int, width: int) -> torch.Tensor:
    """One image whose first two channels are the row and the column of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows + columns])[None].float()


def test_a_wide_window_is_cut_from_anywhere_in_a_wide_image() -> None:
    """Rows and columns each have the whole margin; without padding the window is the centre."""
    images = ramp(12, 40).expand(400, -1, -1, -1)
    out = augment(images, unflipped(400), Augmentation(pad=2, fill="reflect"), WIDE, BLACK)
    assert out.shape == (400, 3, *WIDE)
    for channel, positions in ((0, 9), (1, 21)):  # of the window, along each axis
        assert len(out[:, channel, 4, 12].unique()) == positions
    centre = augment(images[:1], unflipped(1), Augmentation(), WIDE, BLACK)
    assert torch.equal(centre, images[:1, :, 2:10, 8:32])


def test_a_wide_image_is_mirrored_left_to_right() -> None:
    flipped = AugmentationDraws(torch.zeros(1, 21), torch.ones(1, dtype=torch.bool), torch.ones(1))
    out = augment(ramp(*WIDE), flipped, Augmentation(flip="random"), WIDE, BLACK)
    assert torch.equal(out, ramp(*WIDE).flip(3))


@pytest.mark.parametrize("degrees", [30.0, 90.0])
def test_a_wide_image_is_rotated_without_distortion(degrees: float) -> None:
    """Distances of pixels are kept: each step along a row moves by one pixel."""
    images = ramp(96, 288).expand(20, -1, -1, -1)
    settings = Augmentation(rotation_degrees=degrees)
    out = augment(images, unflipped(20), settings, (96, 288), BLACK)
    inner = out[:, :2, 44:52, 140:148]
    for axis in (2, 3):
        steps = inner.diff(dim=axis).square().sum(1).sqrt()
        assert torch.allclose(steps, torch.ones_like(steps), atol=1e-3)
    angles = torch.atan2(inner[:, 0].diff(dim=2), inner[:, 1].diff(dim=2))[:, 0, 0].rad2deg()
    assert degrees / 3 < angles.abs().max() <= degrees + 1e-3


def test_mixed_wide_images_keep_their_shares() -> None:
    """The label's weight is the share of the pixels, whatever the shape."""
    draws = AugmentationDraws.of_epoch(64, seed=0, epoch=0, mixing=Mixing(cutmix=1))
    images = torch.arange(64).reshape(-1, 1, 1, 1) % 2 * torch.ones(64, 3, *WIDE)
    mixed, targets = mix_pairs(images, torch.arange(64) % 2, draws, Mixing(cutmix=1), 2)
    assert mixed.shape == images.shape
    assert torch.allclose(mixed.mean((1, 2, 3)), targets[:, 1], atol=1e-5)
    assert len(targets.unique()) > 32


def test_every_change_together_keeps_a_wide_shape() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = AugmentationDraws.of_epoch(6, seed=0, epoch=0, flip="random")
    out = augment(torch.randn(6, 3, 12, 40, generator=generator), draws, EVERYTHING, WIDE, BLACK)
    assert out.shape == (6, 3, *WIDE)
    assert out.isfinite().all()
    assert resize(out, (4, 12)).shape == (6, 3, 4, 12)
