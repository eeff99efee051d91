"""The first runs of a session, with functions as sessions."""

import numpy as np
import pytest

from model_store.errors import ModelRunError
from model_store.manifest import Input
from service.engine.warm_up import best_batch_size, warm_up

SHAPE = Input(height=2, width=4)
MEMORY_RELEASE = [1]  # the last run returns memory


class Model:
    """Records the sizes of its runs."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray, _: object) -> np.ndarray:
        assert images.shape[1:] == (2, 4, 3)
        self.sizes.append(len(images))
        return np.zeros((len(images), 5), np.float32)


def test_given_sizes_are_run_before_they_are_timed() -> None:
    """The largest first, for providers that compile by shape."""
    model = Model()
    assert list(warm_up(model, SHAPE, 5, 8, (1, 2, 4, 8))) == [1, 2, 4, 8]
    assert model.sizes == [8, 4, 2, 1, 1, 2, 4, 8, *MEMORY_RELEASE]


def test_sizes_double_up_to_the_largest() -> None:
    """Quick runs are timed three times. The largest size may be one."""
    model = Model()
    assert list(warm_up(model, SHAPE, 5, 12)) == [1, 2, 4, 8, 12]
    assert model.sizes == [*(size for size in (1, 2, 4, 8, 12) for _ in range(3)), *MEMORY_RELEASE]
    assert list(warm_up(Model(), SHAPE, 5, 1)) == [1]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.03, [1, 2, 4]), (10.0, [1, 1])])
def test_sizes_stop_before_the_longest_run(
    seconds: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size whose double would take too long is the last; one image always runs."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        now += seconds * len(images) ** 0.8
        return model(images, control)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 1000, longest_seconds=0.15)) == sorted(set(sizes))
    assert model.sizes == [*sizes, *MEMORY_RELEASE]


@pytest.mark.parametrize(
    ("fixed", "sizes"), [(0.0, [1, 2, 4, 8, 16, 32]), (0.001, [1, 2, 4, 8, 16, 32, 64])]
)
def test_sizes_stop_without_gain(
    fixed: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixed costs of a batch decide how long larger batches gain."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        now += fixed + 0.01 * len(images)
        return model(images, control)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 256, longest_seconds=10.0)) == sizes


@pytest.mark.parametrize("slow", [1, 4, 7])
def test_one_slow_run_decides_nothing(slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single outlier does not keep batches small."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        scores = model(images, control)
        now += 0.5 if len(model.sizes) == slow else 0.001
        return scores

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 32, longest_seconds=0.15)) == [1, 2, 4, 8, 16, 32]


def test_scores_of_another_shape_raise() -> None:
    """The model must have as many classes as its manifest."""
    with pytest.raises(ModelRunError, match=r"\(1, 5\).*\(1, 6\)"):
        warm_up(Model(), SHAPE, 6, 8)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 1.0, 2: 2.1, 4: 4.3}, 1),
        ({1: 0.052, 2: 0.101, 4: 0.199}, 4),
        ({1: 0.0004, 2: 0.00078, 4: 0.00153, 8: 0.003, 16: 0.00605}, 16),
        ({1: 0.002, 8: 0.0022, 32: 0.004}, 32),
    ],
    ids=["no gain", "a large model on a CPU", "a small model", "a GPU"],
)
def test_best_batch_size_is_the_smallest_with_nearly_the_best_throughput(
    seconds: dict[int, float], size: int
) -> None:
    """The overhead of a batch is included."""
    assert best_batch_size(seconds) == size
