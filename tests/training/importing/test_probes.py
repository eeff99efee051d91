"""Probe images differ in what a wrong import gets wrong: orientation, colours and brightness."""

import numpy as np
import pytest

from model_store.manifest import Input
from training.importing.probes import PROBE_COUNT, make_probes
from training.steps.golden import draw_scene

HEIGHT, WIDTH = 24, 40
PROBES = make_probes(Input(height=HEIGHT, width=WIDTH))
PICTURE = draw_scene(WIDTH, HEIGHT)


def test_all_probes_are_different_images_of_the_input_size() -> None:
    assert PROBES.shape == (PROBE_COUNT, HEIGHT, WIDTH, 3)
    assert PROBES.dtype == np.uint8
    assert len({probe.tobytes() for probe in PROBES}) == PROBE_COUNT == 16


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_the_scene_is_shown_in_each_orientation_and_with_other_channels(
    axes: tuple[int, ...],
) -> None:
    flipped = np.flip(PICTURE, axes)
    for image in (flipped, np.roll(flipped, 1, axis=2)):
        assert any(np.array_equal(probe, image) for probe in PROBES[:8])


def test_two_flat_colours_are_blended_with_the_scene() -> None:
    """By 30 % and 60 % of the scene."""
    reddish, greenish = PROBES[8:10]
    assert [flat.std(axis=(0, 1)).max() for flat in (reddish, greenish)] == [0, 0]
    assert (reddish[0, 0].argmax(), greenish[0, 0].argmax()) == (0, 1)
    for blend, share in zip(PROBES[10:12], (0.3, 0.6), strict=True):
        distance = blend.astype(float) - greenish
        assert np.abs(distance - share * (PICTURE.astype(float) - greenish)).max() <= 1


def test_noise_has_four_levels_of_brightness() -> None:
    for noise, limit in zip(PROBES[12:], (64, 128, 192, 255), strict=True):
        assert limit - 5 < noise.max() < limit
        assert noise.mean() == pytest.approx(limit / 2, rel=0.05)
        assert noise.std() == pytest.approx(limit / 12**0.5, rel=0.05)
