"""The run directory: damaged files, locking, and the recorded command."""

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from training.__main__ import main
from training.errors import RunError
from training.gates import gate as gates
from training.reports.history import History
from training.run.data import open_run_data
from training.run.directory import Run, RunDirectory
from training.run.metrics import METRIC_NAMES, METRICS_FILE, read_metrics, write_metrics
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
    """The error does not depend on the content of the file."""
    run_copy.write(name, content)
    with pytest.raises(RunError, match=f"{name} is damaged"):
        READERS[name](run_copy)


def test_a_run_can_be_locked_once(run_copy: Run) -> None:
    with (
        run_copy.locked(),
        pytest.raises(RunError, match="another process"),
        Run.open(run_copy.path).locked(),
    ):
        pass


def test_a_run_cannot_resume_with_other_data(run_copy: Run) -> None:
    """Its split belongs to its own images."""
    values = run_copy.read_json("check.json", "resume")
    run_copy.write_json("check.json", {**values, "data_digest": "0" * 64})
    with pytest.raises(RunError, match="changed since"):
        open_run_data(run_copy)


def test_the_recorded_command_can_be_run(run_copy: Run) -> None:
    """It has the options that affect the weights, and no paths."""
    words = shlex.split(run_copy.config.command)
    assert words[:4] == ["python", "-m", "training", "run"]
    assert words[-4:-2] == ["--set", "epochs=3"]
    assert (
        CliRunner()
        .invoke(main, [*words[3:], "--waive", "nothing=x"])
        .stderr.startswith("Error: there is no check nothing")
    )


def test_json_files_hold_no_nan_or_infinity(tmp_path: Path) -> None:
    """JSON has none, and other programs cannot read them; they are null."""
    run = RunDirectory(tmp_path)
    line = dict.fromkeys(METRIC_NAMES, 1.0) | {"epoch": 1, "validation_loss": float("nan")}
    write_metrics(run, [line])
    run.write_json("rates.json", {"losses": (1.0, float("inf")), "deep": [{"x": -float("inf")}]})

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    for name in (METRICS_FILE, "rates.json"):
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
    assert read_metrics(run)[0]["validation_loss"] is None
    assert run.read_json("rates.json", "find-lr") == {"losses": [1.0, None], "deep": [{"x": None}]}


def test_metrics_of_an_earlier_version_with_a_bare_nan_are_read(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    lines = [dict.fromkeys(METRIC_NAMES, 1.0) | {"epoch": epoch} for epoch in (1, 2)]
    lines[0]["validation_loss"] = float("nan")
    run.write(METRICS_FILE, "\n".join(map(json.dumps, lines)).encode())
    assert [line["validation_loss"] for line in read_metrics(run)] == [None, 1.0]
    assert History(read_metrics(run), 100, 10).best["epoch"] == 2
