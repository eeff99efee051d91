"""The first runs of a session."""

import numpy as np
import pytest

from model_store.errors import ModelRunError
from model_store.manifest import Input
from service.engine.warm_up import best_batch_size, warm_up

SHAPE = Input(height=2, width=4)
GIVING_BACK = [1]  # a last run, after which nothing of what the others took is kept


class Model:
    """Counts the sizes that it was run at."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, images: np.ndarray, _: object) -> np.ndarray:
        assert images.shape[1:] == (2, 4, 3)
        self.sizes.append(len(images))
        return np.zeros((len(images), 5), np.float32)


def test_every_size_that_is_prepared_for_is_run_before_it_is_timed() -> None:
    """Where the provider compiles by shape, each shape that will come has been there, the largest first."""
    model = Model()
    assert list(warm_up(model, SHAPE, 5, 8, (1, 2, 4, 8))) == [1, 2, 4, 8]
    assert model.sizes == [8, 4, 2, 1, 1, 2, 4, 8, *GIVING_BACK]


def test_else_sizes_double_up_to_the_largest() -> None:
    """And the largest itself; each is run three times where that is quick. The bound may be one."""
    model = Model()
    assert list(warm_up(model, SHAPE, 5, 12)) == [1, 2, 4, 8, 12]
    assert model.sizes == [*(size for size in (1, 2, 4, 8, 12) for _ in range(3)), *GIVING_BACK]
    assert list(warm_up(Model(), SHAPE, 5, 1)) == [1]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.03, [1, 2, 4]), (10.0, [1, 1])])
def test_batches_grow_no_longer_than_a_run_may_take(
    seconds: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A size whose double would take too long is the last, and runs once where half of it was as long; one image always runs."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        now += seconds * len(images) ** 0.8
        return model(images, control)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 1000, longest_seconds=0.15)) == sorted(set(sizes))
    assert model.sizes == [*sizes, *GIVING_BACK]


@pytest.mark.parametrize(
    ("fixed", "sizes"), [(0.0, [1, 2, 4, 8, 16, 32]), (0.001, [1, 2, 4, 8, 16, 32, 64])]
)
def test_batches_grow_no_longer_than_they_gain(
    fixed: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a batch costs whatever its size is worth sharing until it is a small part; what starts has no time for more."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        now += fixed + 0.01 * len(images)
        return model(images, control)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 256, longest_seconds=10.0)) == sizes


@pytest.mark.parametrize("slow", [1, 4, 7])
def test_a_hiccup_decides_nothing(slow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of any size that takes long for once does not keep batches small for ever."""
    now = 0.0
    model = Model()

    def run(images: np.ndarray, control: object) -> np.ndarray:
        nonlocal now
        scores = model(images, control)
        now += 0.5 if len(model.sizes) == slow else 0.001
        return scores

    monkeypatch.setattr("time.perf_counter", lambda: now)
    assert list(warm_up(run, SHAPE, 5, 32, longest_seconds=0.15)) == [1, 2, 4, 8, 16, 32]


def test_scores_of_another_shape_are_refused() -> None:
    """A model with fewer classes than its manifest does not go live."""
    with pytest.raises(ModelRunError, match=r"scores of shape \(1, 5\), expected \(1, 6\)"):
        warm_up(Model(), SHAPE, 6, 8)


@pytest.mark.parametrize(
    ("seconds", "size"),
    [
        ({1: 1.0, 2: 2.1, 4: 4.3}, 1),
        ({1: 0.052, 2: 0.101, 4: 0.199}, 4),
        ({1: 0.0004, 2: 0.00078, 4: 0.00153, 8: 0.003, 16: 0.00605}, 16),
        ({1: 0.002, 8: 0.0022, 32: 0.004}, 32),
    ],
    ids=["nothing gained", "a large model on a CPU", "a small one", "a GPU"],
)
def test_batches_are_no_larger_than_they_gain(seconds: dict[int, float], size: int) -> None:
    """The smallest size with nearly the most images a second, what a batch costs beside its run counted in."""
    assert best_batch_size(seconds) == size
