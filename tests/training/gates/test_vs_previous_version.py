"""The gate of retraining compares both models on the classes that both have."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model_store.proportions import mcnemar
from training.errors import RunError
from training.gates import gate as gates
from training.gates import vs_previous_version
from training.gates.vs_previous_version import (
    PREVIOUS_COMPARISON_FILE,
    ClassComparison,
    PreviousComparison,
    compare_with_previous,
    read_previous_comparison,
)
from training.run.directory import RunDirectory
from training.run.weights import PREVIOUS_WEIGHTS


@pytest.mark.parametrize(
    ("gained", "lost", "passed"), [(3, 9, True), (3, 12, False), (12, 3, True)]
)
def test_a_model_that_loses_more_than_chance_explains_fails(
    monkeypatch: pytest.MonkeyPatch, gained: int, lost: int, *, passed: bool
) -> None:
    """A model that gains passes."""
    comparison = PreviousComparison((ClassComparison("a", 99, 50, 50, 50),), gained, lost)
    monkeypatch.setattr(gates, "compare_with_previous", lambda *_: comparison)
    run = SimpleNamespace(has=lambda _: True)
    (check,) = gates._retraining_checks(run, None)  # type: ignore[arg-type]
    assert (check.check, check.passed) == ("not_worse", passed)
    assert check.value == pytest.approx(mcnemar(gained, lost))


LABELS = np.array([1, 0, 2, 0, 1, 2, 0])
NEW_LOGITS = np.array(
    [
        [2.0, 1.0, 0.0],  # 1 as 0
        [3.0, 1.0, 0.0],
        [0.0, 0.0, 5.0],
        [1.0, 0.0, 3.0],  # 0 as the new class, but as 0 among the old ones
        [0.0, 2.0, 1.0],
        [5.0, 0.0, 0.0],  # 2 as 0
        [0.0, 2.0, 1.0],  # 0 as 1
    ]
)
OLD_RIGHT = {0: True, 1: False, 3: True, 4: False, 6: True}
"""Whether the previous version classifies an image of its two classes correctly."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that adds a third class to a version with two."""
    previous = SimpleNamespace(
        classes=2, inference_network="the previous network", normalize="scaled"
    )

    def predict_split(
        network: object, _: object, indices: np.ndarray, normalize: object
    ) -> torch.Tensor:
        assert (network, normalize) == ("the previous network", "scaled")
        labels = [LABELS[i] if OLD_RIGHT[int(i)] else 1 - LABELS[i] for i in indices - 10]
        return torch.nn.functional.one_hot(torch.tensor(labels), 2).float()

    monkeypatch.setattr(vs_previous_version, "read_weights", lambda _: previous)
    monkeypatch.setattr(vs_previous_version, "read_logits", lambda _: NEW_LOGITS)
    monkeypatch.setattr(vs_previous_version, "predict_split", predict_split)
    (tmp_path / PREVIOUS_WEIGHTS).write_bytes(b"weights")
    return RunDirectory(tmp_path)


def compare(run: RunDirectory) -> PreviousComparison:
    """Compare both models on seven test images, which follow ten others."""
    images = SimpleNamespace(
        labels=np.concatenate([np.zeros(10, np.int64), LABELS]), class_names=("a", "b", "new")
    )
    data = SimpleNamespace(split=SimpleNamespace(test=np.arange(10, 17)), images=images)
    return compare_with_previous(run, data)  # type: ignore[arg-type]


def test_both_models_choose_among_the_old_classes(run: RunDirectory) -> None:
    """An image of a new class counts for the new model only."""
    comparison = compare(run)
    assert comparison.classes == (
        ClassComparison("a", images=3, old_right=2, like_old=2, new_right=1),
        ClassComparison("b", images=2, old_right=1, like_old=1, new_right=1),
        ClassComparison("new", images=2, old_right=None, like_old=None, new_right=1),
    )
    assert (comparison.gained, comparison.lost) == (2, 2)
    assert comparison.has_new_classes


def test_a_written_comparison_reads_the_same(run: RunDirectory) -> None:
    comparison = compare(run)
    assert read_previous_comparison(run) == comparison
    values = run.read_json(PREVIOUS_COMPARISON_FILE, "gate")
    assert values["p_worse"] == pytest.approx(11 / 16)  # 2 or more of 4
    for damage in ({"classes": [{"name": "a"}]}, {"classes": 3}, {}):
        run.write_json(PREVIOUS_COMPARISON_FILE, damage)
        with pytest.raises(RunError):
            read_previous_comparison(run)


def test_a_run_that_retrains_nothing_has_no_comparison(run: RunDirectory) -> None:
    (run.path / PREVIOUS_WEIGHTS).unlink()
    with pytest.raises(RunError):
        compare(run)


def test_the_same_classes_are_no_new_ones() -> None:
    assert not PreviousComparison((ClassComparison("a", 3, 2, 2, 2),), 0, 0).has_new_classes
