"""The number of CPU threads is measured once per run, and a resumed run keeps it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from short_runs import begin_short_run

from training.commands.common import join_processes
from training.commands.compute_options import ComputeOptions
from training.errors import RunError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.directory import Run
from training.steps.thread_choice import (
    StepTimer,
    choose_threads,
    doubled,
    fastest,
    time_counts,
)

CHOOSES = DistributedProcess(available_threads=2)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin_short_run(tmp_path)


@pytest.mark.parametrize(
    ("available", "times", "timed", "chosen"),
    [
        (2, {1: 1.0, 2: 0.6}, [1, 2], 2),
        (2, {1: 1.0, 2: 0.95}, [1, 2], 1),
        (8, {1: 1.0, 2: 0.5, 4: 0.3, 8: 2.0}, [1, 2, 4, 8], 4),
        (64, {1: 1.0, 2: 9.0}, [1, 2], 1),
        (6, {1: 1.0, 2: 0.5, 4: 0.3, 6: 0.2}, [1, 2, 4, 6], 6),
    ],
)
def test_threads_are_added_while_a_step_gets_faster(
    available: int, times: dict[int, float], timed: list[int], chosen: int
) -> None:
    """A gain below a tenth is noise."""
    seconds = time_counts(doubled(1, available), times.__getitem__)
    assert list(seconds) == timed
    assert fastest(seconds) == chosen


def test_the_choice_is_kept_for_a_resumed_run(run: Run) -> None:
    assert choose_threads(run, 10, CHOOSES)
    stored = run.read_json("threads.json", "train")
    assert set(stored["seconds_per_step"]) == {"1", "2"}
    assert stored["threads"] == torch.get_num_threads()
    run.write_json("threads.json", {"threads": 1})
    torch.set_num_threads(2)
    assert choose_threads(run, 10, CHOOSES)
    assert torch.get_num_threads() == 1


def test_the_measurement_changes_no_random_number(run: Run) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    assert StepTimer(run.config, 10)(1) > 0
    assert torch.equal(torch.rand(3), expected)


def test_a_number_that_was_given_is_kept(run: Run) -> None:
    assert choose_threads(run, 10, SINGLE_PROCESS) is None
    assert torch.get_num_threads() == 2
    assert not run.has("threads.json")


def test_a_run_from_before_this_choice_resumes_with_its_threads(run: Run) -> None:
    run.write("checkpoint.pt", b"")
    assert choose_threads(run, 10, CHOOSES) is None
    assert torch.get_num_threads() == 2


def test_an_earlier_choice_of_the_process_does_not_limit_the_next(run: Run) -> None:
    """The folds of a cross-validation and the networks of an experiment share a process."""
    torch.set_num_threads(1)
    assert choose_threads(run, 10, CHOOSES)
    assert set(run.read_json("threads.json", "train")["seconds_per_step"]) == {"1", "2"}


def test_one_available_thread_is_kept_without_a_measurement(run: Run) -> None:
    """Otherwise the run would resume with two threads on a larger machine, and to other bits."""
    assert choose_threads(run, 10, DistributedProcess(available_threads=1)) is None
    assert run.read_json("threads.json", "train")["threads"] == 1
    choose_threads(run, 10, CHOOSES)
    assert torch.get_num_threads() == 1


def test_a_command_ends_with_the_threads_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with join_processes(ComputeOptions("cpu", None, None)) as process:
        assert process.available_threads == 2
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2
    with join_processes(ComputeOptions("cpu", 1, None)) as process:
        assert process.available_threads is None
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("content", [{}, {"threads": "many"}, {"threads": 0}, []])
def test_a_damaged_choice_is_named(run: Run, content: object) -> None:
    run.write_json("threads.json", content)
    with pytest.raises(RunError, match=r"threads\.json"):
        choose_threads(run, 10, CHOOSES)
