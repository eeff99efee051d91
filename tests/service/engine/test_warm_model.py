"""What a trial has measured is used only where it holds."""

import pytest
from colour_model import MODEL, publish

from model_store.session import SessionOptions
from model_store.store import ModelStore
from service.engine.options import EngineOptions
from service.engine.warm_model import Measurement, load_measured

SLOW_SECONDS = 1e6


@pytest.mark.parametrize(("threads", "taken_over"), [(1, True), (2, False)])
def test_only_cpu_times_of_another_process_are_taken_over(
    store: ModelStore, threads: int, taken_over: bool
) -> None:
    """Wall-clock times of a process with a lower priority are too long."""
    publish(store)
    measured = Measurement(
        precision="fp32",
        note=None,
        left_out={},
        milliseconds={},
        seconds={1: SLOW_SECONDS},
        warm_up_seconds=1,
    )
    options = EngineOptions(SessionOptions(intra_op_num_threads=threads), max_batch_size=8)
    with store.open(MODEL, 1) as version:
        model = load_measured(version, options, measured)
    assert (model.seconds == {1: SLOW_SECONDS}) is taken_over
    assert taken_over or max(model.seconds.values()) < SLOW_SECONDS
