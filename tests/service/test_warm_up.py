"""The first runs of a session."""

import numpy as np
import pytest

from model_store.errors import ModelRunError
from model_store.manifest import Input
from service.warm_up import warm_up

SHAPE = Input(height=2, width=4)


def run(images: np.ndarray, _: object) -> np.ndarray:
    assert images.shape[1:] == (2, 4, 3)
    return np.zeros((len(images), 5), np.float32)


def test_every_size_that_is_prepared_for_is_run() -> None:
    """Where the provider compiles by shape, each shape that will come has been there, the largest first."""
    assert list(warm_up(run, SHAPE, 5, 8, (1, 2, 4, 8))) == [8, 4, 2, 1]


def test_else_one_image_and_a_large_batch() -> None:
    """A fast model runs its largest batch; the bound itself may be one."""
    assert list(warm_up(run, SHAPE, 5, 8)) == [1, 8]
    assert list(warm_up(run, SHAPE, 5, 1)) == [1]


@pytest.mark.parametrize("seconds", [0.01, 10.0])
def test_a_slow_model_is_ready_soon(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is no larger than what should fit the budget, however large batches may be; a very slow one runs one image."""
    clock = iter(np.arange(100) * seconds)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    assert list(warm_up(run, SHAPE, 5, 1000)) == ([1, 30] if seconds < 1 else [1])


def test_scores_of_another_shape_are_refused() -> None:
    """A model with fewer classes than its manifest does not go live."""
    with pytest.raises(ModelRunError, match=r"scores of shape \(1, 5\), expected \(1, 6\)"):
        warm_up(run, SHAPE, 6, 8)
