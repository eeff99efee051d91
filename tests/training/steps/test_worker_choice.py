"""The number of worker processes is measured once per run, and only where workers are used."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_runs import begin_short_run

from training.errors import RunError
from training.learning.distributed import SINGLE_PROCESS, DistributedProcess
from training.run.data import RunData, open_run_data
from training.run.directory import Run
from training.steps.train import train
from training.steps.worker_choice import choose_workers, worker_counts

CHOOSES = DistributedProcess(workers=None)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin_short_run(tmp_path, "iterations=3")


@pytest.fixture
def data(run: Run) -> RunData:
    """Images that are decoded when they are needed."""
    data = open_run_data(run)
    return replace(data, scan=replace(data.scan, pixels=None))


@pytest.mark.parametrize(
    ("cpus", "counts"), [(1, [0, 1]), (2, [0, 2]), (4, [0, 2, 4]), (6, [0, 2, 4, 6])]
)
def test_workers_are_tried_up_to_the_number_of_cpus(cpus: int, counts: list[int]) -> None:
    """With several CPUs, one worker would decode no faster than the training itself."""
    assert worker_counts(cpus) == counts


def test_the_choice_is_recorded_and_kept_for_a_resumed_run(run: Run, data: RunData) -> None:
    chosen, message = choose_workers(run, data, CHOOSES)
    stored = run.read_json("workers.json", "train")
    assert message
    assert stored["workers"] == chosen
    assert len(stored["seconds_per_batch"]) >= 2
    assert all(seconds > 0 for seconds in stored["seconds_per_batch"].values())
    run.write_json("workers.json", {"workers": 5})
    assert choose_workers(run, data, CHOOSES)[0] == 5


def test_a_training_says_its_choice_with_the_first_step(run: Run, data: RunData) -> None:
    notices: list[str | None] = []
    train(run, data, lambda progress: notices.append(progress.notice), CHOOSES)
    assert run.has("workers.json")
    assert "workers: " in str(notices[0])
    assert not any(notices[1:])


def test_a_given_number_wins(run: Run, data: RunData) -> None:
    assert choose_workers(run, data, DistributedProcess(workers=0)) == (0, None)
    assert choose_workers(run, data, DistributedProcess(workers=7)) == (7, None)
    assert not run.has("workers.json")


def test_nothing_is_measured_for_images_in_memory(run: Run) -> None:
    assert choose_workers(run, open_run_data(run), CHOOSES) == (0, None)
    assert not run.has("workers.json")


def test_the_measurement_changes_no_random_number(run: Run, data: RunData) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    choose_workers(run, data, CHOOSES)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("content", [{}, {"workers": "many"}, []])
def test_a_damaged_choice_is_named(run: Run, data: RunData, content: object) -> None:
    run.write_json("workers.json", content)
    with pytest.raises(RunError, match=r"workers\.json"):
        choose_workers(run, data, CHOOSES)


def test_other_steps_do_not_measure(run: Run, data: RunData) -> None:
    assert choose_workers(run, data, SINGLE_PROCESS) == (2, None)
