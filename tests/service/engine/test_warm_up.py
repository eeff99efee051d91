"""The first runs of a session, with functions as sessions."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from model_store.errors import ModelRunError
from model_store.manifest import Input
from service.engine.warm_up import (
    STABLE_ROUNDS,
    STABLE_ROUNDS_OF_CPU_TIME,
    best_batch_size,
    seconds_per_image,
    warm_up,
)

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


class TimedModel(Model):
    """A model whose runs take a given time on a clock of its own."""

    def __init__(self, duration: Callable[[int, int], float]) -> None:
        """`duration` gets the number of images and the number of the run, from 1."""
        super().__init__()
        self._duration = duration
        self.now = 0.0

    def __call__(self, images: np.ndarray, control: object) -> np.ndarray:
        scores = super().__call__(images, control)
        self.now += self._duration(len(images), len(self.sizes))
        return scores

    def warm_up(
        self, largest: int, longest_seconds: float = math.inf, stable_rounds: int = STABLE_ROUNDS
    ) -> dict[int, float]:
        return warm_up(
            self, SHAPE, 5, largest, (), longest_seconds, lambda: self.now, stable_rounds
        )


def test_sizes_double_up_to_the_largest() -> None:
    """All are timed twice. The largest size may be one."""
    model = Model()
    assert list(warm_up(model, SHAPE, 5, 12)) == [1, 2, 4, 8, 12]
    assert model.sizes == [1, 2, 4, 8, 12, 1, 2, 4, 8, 12, *MEMORY_RELEASE]
    assert list(warm_up(Model(), SHAPE, 5, 1)) == [1]


@pytest.mark.parametrize(("seconds", "sizes"), [(0.03, [1, 2, 4]), (10.0, [1])])
def test_sizes_stop_before_the_longest_run(seconds: float, sizes: list[int]) -> None:
    """A size whose double would take too long is the last; one image always runs."""
    model = TimedModel(lambda images, _: seconds * images**0.8)
    assert list(model.warm_up(1000, 0.15)) == sizes


@pytest.mark.parametrize(
    ("fixed", "sizes"), [(0.0, [1, 2, 4, 8, 16, 32]), (0.001, [1, 2, 4, 8, 16, 32, 64])]
)
def test_sizes_stop_without_gain(fixed: float, sizes: list[int]) -> None:
    """The fixed costs of a batch decide how long larger batches gain."""
    assert list(TimedModel(lambda images, _: fixed + 0.01 * images).warm_up(256, 10.0)) == sizes


@pytest.mark.parametrize("slow", [1, 2, 4, 7])
def test_one_slow_run_decides_nothing(slow: int) -> None:
    """A single outlier does not keep batches small."""
    model = TimedModel(lambda _, run: 0.5 if run == slow else 0.001)
    assert list(model.warm_up(32, 0.15)) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("slower", "rounds", "worse_choices"),
    [(2.0, STABLE_ROUNDS, 2), (0.1, STABLE_ROUNDS_OF_CPU_TIME, 10)],
    ids=["wall-clock time", "CPU time"],
)
def test_noise_costs_little_throughput(slower: float, rounds: int, worse_choices: int) -> None:
    """Half of the runs take up to `slower` times as long. Fewer rounds lose more."""
    sizes = [2**power for power in range(7)]
    true = seconds_per_image({size: 0.002 + 0.001 * size for size in sizes})
    lost = []
    for seed in range(100):
        noise = np.random.default_rng(seed)

        def duration(images: int, _: int, noise: np.random.Generator = noise) -> float:
            return (0.002 + 0.001 * images) * (1 + slower * max(0.0, noise.uniform(-1, 1)))

        chosen = best_batch_size(TimedModel(duration).warm_up(64, 0.25, rounds))
        lost.append(1 - min(true.values()) / true[chosen])
    assert max(lost) < 0.05
    assert np.count_nonzero(lost) <= worse_choices


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
