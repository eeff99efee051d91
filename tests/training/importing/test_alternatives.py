"""An import is rejected if another input spec is significantly better."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from training.importing.accuracy_checks import (
    _check_alternatives,
    _geometry_p_value,
    _LabelScores,
    _p_value,
)

IMAGES = 40


def scores(correct: int, seed: int) -> np.ndarray:
    """Probabilities of two classes for images of class 0, of which `correct` are right."""
    generator = np.random.default_rng(seed)
    of_label = generator.uniform(0.55, 0.95, IMAGES)
    of_label[correct:] = generator.uniform(0.05, 0.45, IMAGES - correct)
    return np.stack([of_label, 1 - of_label], axis=1).astype(np.float32)


def check(alternatives: int) -> Any:
    """The check with this number of alternatives, all of them equally good."""
    own, other = scores(20, seed=0), scores(32, seed=1)
    candidate = SimpleNamespace(
        outputs=SimpleNamespace(kind="probabilities"),
        reference=lambda _: own,
        alternatives={f"alternative {n}": lambda _: other for n in range(alternatives)},
        geometries={},
    )
    labelled = SimpleNamespace(labels=np.zeros(IMAGES, np.int64))
    return _check_alternatives(candidate, labelled, np.zeros((IMAGES, 8, 8, 3), np.uint8))


def test_each_alternative_raises_the_p_value() -> None:
    """Bonferroni: with many alternatives, one is better by chance."""
    one, three, thousand = check(1), check(3), check(1000)
    assert three.value == pytest.approx(3 * one.value)
    assert thousand.value == pytest.approx(1000 * one.value)
    assert not one.passed
    assert thousand.passed


def first(correct: int) -> np.ndarray:
    """20 images, of which the first `correct` are right."""
    return np.arange(20) < correct


def test_an_alternative_with_fewer_correct_images_is_not_better() -> None:
    likelier = _LabelScores(first(10), np.log(np.linspace(0.5, 0.9, 20)))
    own = _LabelScores(first(11), np.log(np.linspace(0.1, 0.2, 20)))
    assert _p_value(own, likelier) == 1.0


def test_a_geometry_must_be_clearly_better() -> None:
    """Two images of 40 may be luck of the resolution; here three are asked for."""
    own = _LabelScores(first(11), np.log(np.linspace(0.1, 0.2, 20)))
    likelier = _LabelScores(first(13), np.log(np.linspace(0.5, 0.9, 20)))
    assert _geometry_p_value(own, likelier, 2) < 0.001
    assert _geometry_p_value(own, likelier, 3) == 1.0


def test_images_that_become_correct_outweigh_others_that_become_less_certain() -> None:
    """As with another geometry: 25 of 120 images are gained, the rest is a little less likely."""
    own = _LabelScores(np.arange(120) >= 25, np.full(120, np.log(0.9)))
    own.log_probabilities[:25] = np.log(0.3)
    other = _LabelScores(np.full(120, True), np.full(120, np.log(0.8)))
    assert _p_value(own, other) > 0.5
    assert _geometry_p_value(own, other, 3) == pytest.approx(2 * 2.0**-25)
    assert _geometry_p_value(other, own, 3) == 1.0
