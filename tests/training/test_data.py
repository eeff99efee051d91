"""Data and splits: real digits, stratified, disjoint, the same every time."""

import numpy as np
import pytest

from training.data import load_data, stratified_folds, stratified_split
from training.errors import DataError

DIGEST = "ff1f56524a1309ba72abf795e2a06e20438251238cab619e799959d7fab52b81"


def test_digits_are_the_1797_real_ones_as_png() -> None:
    """Every image is a PNG of 8x8, and comes out of `prepare` at the network's size."""
    data = load_data("digits")
    assert len(data.encoded) == len(data.labels) == 1797
    assert all(image.startswith(b"\x89PNG") for image in data.encoded)
    pixels = data.pixels(np.arange(5))
    assert pixels.shape == (5, 32, 32, 3)
    assert pixels.dtype == np.uint8
    assert pixels.max() > 200


def test_the_digest_names_the_data() -> None:
    """The same data has the same digest, on any machine: it is in every manifest."""
    assert load_data("digits").digest == load_data("digits").digest == DIGEST


def test_a_split_is_stratified_disjoint_complete_and_repeatable() -> None:
    """70, 10 and 20 %, each class in proportion, no image twice."""
    labels = load_data("digits").labels
    split, again = stratified_split(labels), stratified_split(labels)
    parts = [split.train, split.validation, split.test]
    assert [len(part) for part in parts] == [1257, 180, 360]
    assert sorted(np.concatenate(parts).tolist()) == list(range(1797))
    assert all(np.array_equal(a, b) for a, b in zip(vars(split).values(), vars(again).values(), strict=True))
    for part in parts:
        assert np.abs(np.bincount(labels[part]) / len(part) - np.bincount(labels) / len(labels)).max() < 0.01
    assert not np.array_equal(split.test, stratified_split(labels, seed=1).test)


def test_folds_test_every_image_once() -> None:
    """Five test parts that cover the data, each disjoint from its own training and validation part."""
    labels = load_data("digits").labels
    folds = stratified_folds(labels, 5)
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(1797))
    for fold in folds:
        assert len(np.unique(np.concatenate([fold.train, fold.validation, fold.test]))) == 1797


def test_an_unknown_data_set_is_refused() -> None:
    """The message says what there is."""
    with pytest.raises(DataError, match="there is digits"):
        load_data("mnist")
