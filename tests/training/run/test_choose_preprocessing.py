"""The geometry of a run, by its request, its data and its network."""

from typing import Any

import pytest
from click.testing import CliRunner

from model_store.geometry import resize_target
from model_store.manifest import Preprocessing
from training.__main__ import main
from training.errors import DataError
from training.run.config import geometry_options
from training.run.request import RunRequest, choose_preprocessing
from training.steps.training_setup import surrounding_color

NATURAL = Preprocessing(resize=28, crop_height=28, crop_width=28, background=(0, 0, 0))


def chosen(natural: Preprocessing | None = None, **values: Any) -> Preprocessing:
    return choose_preprocessing(natural, "resnet20", RunRequest(("data",), **values))


@pytest.mark.parametrize(
    ("values", "target", "crop"),
    [
        ({}, (32, 32), (32, 32)),
        ({"image_size": (96, 96)}, (96, 96), (96, 96)),
        ({"image_size": (112, 112)}, (128, 128), (112, 112)),
        ({"image_size": (112, 224)}, (128, 256), (112, 224)),
        ({"image_size": (56, 112)}, (64, 128), (56, 112)),
        ({"image_size": (112, 224), "resize_mode": "exact"}, (112, 224), (112, 224)),
        ({"image_size": (112, 224), "resize_mode": "letterbox"}, (112, 224), (112, 224)),
    ],
)
def test_only_large_images_that_are_covered_have_a_margin(
    values: dict[str, Any], target: tuple[int, int], crop: tuple[int, int]
) -> None:
    """It is 8/7 of the size. A squeezed or letterboxed image is used whole."""
    spec = chosen(**values)
    assert resize_target(spec) == target
    assert (spec.crop_height, spec.crop_width) == crop
    assert spec.background == (255, 255, 255)


def test_a_known_data_set_states_size_and_background() -> None:
    assert chosen(NATURAL) == NATURAL
    squeezed = chosen(NATURAL, resize_mode="exact", image_size=(16, 20))
    assert (squeezed.resize_mode, squeezed.background) == ("exact", (0, 0, 0))
    assert (squeezed.crop_height, squeezed.crop_width) == (16, 20)


def test_the_content_outside_an_image_is_the_padding_or_the_background() -> None:
    assert surrounding_color(NATURAL) == (0, 0, 0)
    assert surrounding_color(chosen()) == (255, 255, 255)
    assert surrounding_color(chosen(resize_mode="letterbox", padding=(1, 2, 3))) == (1, 2, 3)
    assert surrounding_color(chosen(NATURAL, resize_mode="letterbox")) == (0, 0, 0)


def test_a_padding_without_a_letterbox_is_refused() -> None:
    with pytest.raises(DataError, match="--padding"):
        chosen(padding=(0, 0, 0), resize_mode="exact")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": (24, 24)}, "--image-size 24"),
        (
            {"image_size": (24, 64), "resize_mode": "exact"},
            "--image-size 24x64 --resize-mode exact",
        ),
        (
            {"resize_mode": "letterbox", "padding": (1, 2, 3)},
            "--image-size 32 --resize-mode letterbox --padding 1,2,3",
        ),
    ],
)
def test_the_options_of_a_geometry_repeat_it(values: dict[str, Any], words: str) -> None:
    assert geometry_options(chosen(**values)) == words.split()


@pytest.mark.parametrize(
    "words",
    ["--image-size 7", "--image-size 32x", "--image-size 32x2000", "--image-size 3²",
     "--image-size -32", "--resize-mode stretch", "--padding 1,2", "--padding 0,0,256"],
)  # fmt: skip
def test_values_that_are_no_geometry_are_refused(words: str) -> None:
    result = CliRunner().invoke(main, ["run", "--data", "digits", *words.split()])
    assert result.exit_code == 2
    assert words.split(maxsplit=1)[0] in result.output
