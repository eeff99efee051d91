"""`python -m training` as a person types it: exit codes, the table, one line an error."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_store.store import ModelStore
from training.__main__ import main

ROOT = Path(__file__).parent.parent.parent


def training(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory of its own."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "COLUMNS": "200", "HOME": str(cwd)}
    return subprocess.run(
        [sys.executable, "-m", "training", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_run_stops_at_a_failed_gate_and_resume_goes_on_with_a_waiver(tmp_path: Path) -> None:
    """Exit code 1 with a table of expected and found; then the same run, waived, is published without training again."""
    command = ("run", "--data", "digits", "--arch", "resnet20", "--store", "store", "--model", "mine", "--epochs", "1")
    stopped = training(*command, cwd=tmp_path)
    assert stopped.returncode == 1
    assert "accuracy_floor" in stopped.stdout
    assert "FAILED" in stopped.stdout
    assert "not published" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (tmp_path / "store").exists()
    (run,) = (tmp_path / "runs").iterdir()
    waivers = ("--waive", "accuracy_floor=one epoch", "--waive", "accuracy_jpeg=one epoch")
    resumed = training("resume", str(run), "--store", "store", *waivers, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "published mine version 1" in resumed.stdout
    assert "epoch 1/1" not in resumed.stdout
    with ModelStore(tmp_path / "store").open("mine", 1) as version:
        waived = {check.check: check.waived for check in version.manifest.gate}
        assert waived["accuracy_floor"] == "one epoch"
        assert version.manifest.training is not None
        command = "python -m training run --data digits --arch resnet20 --model mine --seed 0 --epochs 1"
        assert version.manifest.training.command == command
    assert ModelStore(tmp_path / "store").aliases("mine").names() == [], "what was waived does not go live by itself"
    again = training("resume", str(run), "--store", "store", *waivers, cwd=tmp_path)
    assert "published mine version 1" in again.stdout, "a run is published once"
    elsewhere = training("resume", str(run), "--store", "other", *waivers, cwd=tmp_path)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert ModelStore(tmp_path / "other").versions("mine") == [1]


def test_the_steps_one_by_one_reach_the_same_end(tmp_path: Path) -> None:
    """train, evaluate, export, gate and publish each take the run's directory and say what comes next."""
    recipe = (ROOT / "training/recipes/digits.toml").read_text().replace("accuracy_floor = 0.98", "accuracy_floor = 0.1")
    (tmp_path / "mine.toml").write_text(recipe)
    assert training("train", "--recipe", "mine.toml", "--epochs", "1", cwd=tmp_path).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    for step, words in (
        ("evaluate", ()),
        ("export", ()),
        ("gate", ("--waive", "accuracy_jpeg=one epoch")),
        ("publish", ("--store", "store")),
    ):
        done = training(step, str(run), *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ModelStore(tmp_path / "store").versions("digits-resnet20") == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --data mnist", "there is no data set 'mnist'"),
        ("run --arch resnet21", "there is no architecture 'resnet21'"),
        ("run --recipe mine", "there is no recipe 'mine'"),
        ("run --model a/b", "is no model name"),
        ("run --waive accuracy_floor", "--waive takes CHECK=REASON"),
        ("run --epochs 0", "0 is not in the range"),
        ("run --waive acuracy_floor=slip", "there is no check acuracy_floor; there are parity_batch_1"),
        ("run --store /dev/null/store", "can not write to the store"),
        ("run --runs /dev/null/runs", ": Not a directory"),
        ("run --recipe /", "there is no recipe '/'"),
        ("evaluate .", "has no config.json"),
        ("resume nowhere", "does not exist"),
    ],
)
def test_a_wrong_word_gets_one_line_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    """What is wrong is said, with what there is instead, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code in {1, 2}
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_recipe_passes_its_gates(tmp_path: Path) -> None:
    """The built-in model's own command, from nothing to a published version, with nothing waived."""
    done = training("run", "--data", "digits", "--arch", "resnet20", "--store", "store", "--model", "digits-resnet20", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with ModelStore(tmp_path / "store").open("digits-resnet20", 1) as version:
        assert version.manifest.metrics is not None
        assert version.manifest.metrics.top1 >= 0.98
        assert all(check.passed for check in version.manifest.gate)
