"""Parity: wrong logits are noticed at every batch size, in every position and beside any image."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from model_store.manifest import Check
from training.gates import parity
from training.gates.parity import BATCH_SIZES, exploded_logits, parity_checks

IMAGES, CLASSES, FIRST_CHUNK = 40, 3, 35
EXPECTED = np.random.default_rng(0).normal(size=(IMAGES, CLASSES)).astype(np.float32)


Change = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the logits and the indices of a batch to what the session returns."""


class FakeSession:
    """Returns changed logits of images whose pixels are their index."""

    def __init__(self, change: Change) -> None:
        self._change = change

    def run(self, images: np.ndarray) -> np.ndarray:
        indices = images[:, 0, 0, 0]
        return self._change(EXPECTED[indices].copy(), indices)


def measure(change: Change, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """Return the checks by name."""
    monkeypatch.setattr(parity, "read_logits", lambda _: EXPECTED)
    images = np.tile(np.arange(IMAGES, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 3))

    def chunks(indices: np.ndarray) -> Iterator[np.ndarray]:
        yield images[indices[:FIRST_CHUNK]]
        yield images[indices[FIRST_CHUNK:]]

    data = SimpleNamespace(split=SimpleNamespace(test=np.arange(IMAGES)), chunks=chunks)
    checks = list(parity_checks(None, data, FakeSession(change)))  # type: ignore[arg-type]
    names = [f"parity_batch_{size}" for size in BATCH_SIZES]
    assert [check.check for check in checks] == [*names, "parity_top1", "batch_invariance"]
    return {check.check: check for check in checks}


def failed_checks(change: Change, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the names of the checks that fail."""
    checks = measure(change, monkeypatch)
    return {name for name, check in checks.items() if not check.passed}


def test_equal_logits_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check fails."""
    assert failed_checks(lambda logits, _: logits, monkeypatch) == set()


@pytest.mark.parametrize("wrong_size", BATCH_SIZES)
def test_logits_that_are_wrong_in_one_batch_size_fail(
    monkeypatch: pytest.MonkeyPatch, wrong_size: int
) -> None:
    """The check of this batch size fails, and so does invariance."""

    def change(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + np.float32(0.002 * (len(indices) == wrong_size))

    expected = {f"parity_batch_{wrong_size}", "batch_invariance"}
    assert failed_checks(change, monkeypatch) == expected


def test_another_top_class_of_one_image_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if only one batch size gives it."""

    def change(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if len(indices) == 7:
            logits[0] = -logits[0]
        return logits

    assert "parity_top1" in failed_checks(change, monkeypatch)


def test_a_logit_that_depends_on_the_neighbours_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are also run in reverse order, which gives them other neighbours and positions."""

    def change(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + np.float32(0.002 * (indices[0] > indices[-1]))

    assert failed_checks(change, monkeypatch) == {"batch_invariance"}


def test_differences_of_two_batch_sizes_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is within the tolerance of torch's logits, and not of each other."""

    def change(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + np.float32(8e-4 if len(indices) == 32 else -8e-4)

    checks = measure(change, monkeypatch)
    assert {name for name, check in checks.items() if not check.passed} == {"batch_invariance"}
    assert checks["batch_invariance"].value == pytest.approx(1.6e-3, rel=1e-3)
    assert checks["parity_batch_32"].value == pytest.approx(8e-4, rel=1e-3)


def test_rounding_of_exploded_logits_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 logits of 3e4 differ by 0.02 between batch sizes; 10 is still a fault."""
    monkeypatch.setattr("test_parity.EXPECTED", EXPECTED * np.float32(3e4))
    rounding = np.float32(0.02)
    assert failed_checks(lambda logits, _: logits + rounding, monkeypatch) == set()
    assert failed_checks(lambda logits, _: logits + 500 * rounding, monkeypatch)


def test_one_image_with_huge_logits_hides_no_fault_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may change by 1e-4 of its largest logit, 2. The others may change by 0.001."""
    expected = EXPECTED.copy()
    expected[5] = [2e4, 0, -1]
    monkeypatch.setattr("test_parity.EXPECTED", expected)

    def change(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + np.float32(1.5) * (indices == 5)[:, None]

    def change_others(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + np.float32(0.002) * (indices != 5)[:, None]

    assert failed_checks(change, monkeypatch) == set()
    failed = failed_checks(change_others, monkeypatch)
    assert failed == {f"parity_batch_{size}" for size in BATCH_SIZES}


def test_a_clear_top1_of_a_usual_image_stays_clear_beside_huge_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = EXPECTED.copy()
    expected[4:6] = [[1, 0.5, 0], [2e4, 0, -1]]
    monkeypatch.setattr("test_parity.EXPECTED", expected)
    swap = np.array([-0.5, 0.5, 0], np.float32)
    checks = measure(lambda logits, at: logits + swap * (at == 4)[:, None], monkeypatch)
    assert checks["parity_top1"].value == pytest.approx(39 / 40)


def test_exploded_logits_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 10,000 in either direction."""
    for largest, sentences in ((10.0, 0), (1e4, 0), (10_001.0, 1), (-3e4, 1)):
        logits = np.array([[largest, 0.0]])
        monkeypatch.setattr(parity, "read_logits", lambda _, logits=logits: logits)
        assert len(list(exploded_logits(None))) == sentences  # type: ignore[arg-type]


def test_a_top1_within_the_tolerance_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal logits of 3e4 may change places; a clear first class may not."""
    expected = EXPECTED * np.float32(3e4)
    expected[:, 1:] = expected[:, :1]
    monkeypatch.setattr("test_parity.EXPECTED", expected)
    tie = np.array([0, 0.02, 0], np.float32)
    assert failed_checks(lambda logits, _: logits + tie, monkeypatch) == set()
    expected[3, 2] += 1e4
    clear = np.array([0, 2e4, 0], np.float32)
    failed = failed_checks(lambda logits, _: logits + clear, monkeypatch)
    assert "parity_top1" in failed


@pytest.mark.parametrize(("margin", "passed"), [(0.0015, True), (0.0025, False)])
def test_a_top1_counts_as_the_same_up_to_twice_the_tolerance(
    monkeypatch: pytest.MonkeyPatch, margin: float, *, passed: bool
) -> None:
    """Each of two logits may be wrong by the tolerance of 0.001."""
    expected = EXPECTED / np.abs(EXPECTED).max()
    expected[4] = [1, 1 - margin, 0]
    monkeypatch.setattr("test_parity.EXPECTED", expected.astype(np.float32))
    change = np.array([-margin, margin, 0], np.float32) / 2

    def swap(logits: np.ndarray, indices: np.ndarray) -> np.ndarray:
        return logits + 1.01 * change * (indices == 4)[:, None]

    check = measure(swap, monkeypatch)["parity_top1"]
    assert check.passed == passed
    assert check.value == pytest.approx(1.0 if passed else 39 / 40)
