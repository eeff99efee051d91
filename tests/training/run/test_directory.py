"""A run's directory: damage is named, one process at a time, the command can be typed again."""

import shlex

import pytest
from click.testing import CliRunner

from training.__main__ import main
from training.errors import RunError
from training.gates import gate as gates
from training.run.data import open_run_data
from training.run.directory import Run
from training.run.metrics import read_metrics
from training.run.weights import load_trained
from training.steps.evaluate import read_figures, read_logits
from training.steps.golden import read_golden

READERS = {
    "config.json": lambda run: Run.open(run.path),
    "check.json": open_run_data,
    "split.csv": open_run_data,
    "metrics.jsonl": read_metrics,
    "best.safetensors": load_trained,
    "evaluation.json": read_figures,
    "evaluation.npz": read_logits,
    "golden/golden.json": read_golden,
    "gates.json": gates.read_checks,
}


@pytest.mark.parametrize("content", [b"", b"{}", b"[{}]", b"\xff\x00", b"PK\x03\x04"], ids=repr)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_artefact_is_an_error_that_names_it(
    run_copy: Run, name: str, content: bytes
) -> None:
    """Whatever lies where an artefact should be, a person reads which file it is."""
    run_copy.write(name, content)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        READERS[name](run_copy)


def test_two_processes_do_not_work_on_one_run(run_copy: Run) -> None:
    """The second one is told so."""
    with (
        run_copy.locked(),
        pytest.raises(RunError, match="another process"),
        Run.open(run_copy.path).locked(),
    ):
        pass


def test_a_run_does_not_go_on_with_other_data(run_copy: Run) -> None:
    """A split belongs to the images that it was made for."""
    values = run_copy.read_json("check.json", "resume")
    run_copy.write_json("check.json", {**values, "data_digest": "0" * 64})
    with pytest.raises(RunError, match="changed since"):
        open_run_data(run_copy)


def test_the_command_in_the_manifest_is_one_that_the_program_takes(run_copy: Run) -> None:
    """It names what decides the weights, and no path of the person who typed it."""
    words = shlex.split(run_copy.config.command)
    assert words[:4] == ["python", "-m", "training", "run"]
    assert words[-4:-2] == ["--set", "epochs=3"]
    assert (
        CliRunner()
        .invoke(main, [*words[3:], "--waive", "nothing=x"])
        .stderr.startswith("Error: there is no check nothing")
    )
