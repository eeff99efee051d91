"""`python -m training` as a person types it: exit codes, tables, one line an error."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from model_store.store import ModelStore
from training.__main__ import main

ROOT = Path(__file__).parent.parent.parent


def environment(home: Path) -> dict[str, str]:
    """A person's own, with nothing in it."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "HOME": str(home)}


def training(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a directory of its own."""
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        check=False,
    )


def test_run_stops_at_a_failed_gate_and_resume_goes_on_with_a_waiver(tmp_path: Path) -> None:
    """Exit code 1 with a table of expected and found; then the same run, waived, is published without training again."""
    command = (
        "run",
        "--data",
        "digits",
        "--arch",
        "resnet20",
        "--store",
        "store",
        "--model",
        "mine",
        "--epochs",
        "1",
    )
    stopped = training(*command, cwd=tmp_path)
    assert stopped.returncode == 1
    assert "accuracy_floor" in stopped.stdout
    assert "FAILED" in stopped.stdout
    assert "not published" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not list((tmp_path / "store").iterdir()), (
        "the store was made before the training began, and nothing was published to it"
    )
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.html").exists(), "the report shows what failed"
    waivers = ("--waive", "accuracy_floor=one epoch", "--waive", "accuracy_jpeg=one epoch")
    resumed = training("resume", str(run), "--store", "store", *waivers, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "published mine version 1" in resumed.stdout
    assert "epoch 1/1" not in resumed.stdout
    with ModelStore(tmp_path / "store").open("mine", 1) as version:
        waived = {check.check: check.waived for check in version.manifest.gate}
        assert waived["accuracy_floor"] == "one epoch"
        assert version.manifest.training is not None
        command = "python -m training run --arch resnet20 --image-size 32 --model mine --data digits --recipe digits --set epochs=1"
        assert version.manifest.training.command == f"{command} --seed 0"
    assert ModelStore(tmp_path / "store").aliases("mine").names() == [], (
        "what was waived does not go live by itself"
    )
    again = training("resume", str(run), "--store", "store", *waivers, cwd=tmp_path)
    assert "published mine version 1" in again.stdout, "a run is published once"
    listed = training("runs", cwd=tmp_path)
    assert "mine" in listed.stdout
    assert "published" in listed.stdout


def test_the_steps_one_by_one_reach_the_same_end(tmp_path: Path) -> None:
    """train, evaluate, calibrate, export, gate and publish each take the run's directory and say what comes next."""
    (tmp_path / "mine.toml").write_text('extends = "digits"\naccuracy_floor = 0.1\nepochs = 1\n')
    assert training("train", "--recipe", "mine.toml", cwd=tmp_path).returncode == 0
    (run,) = (tmp_path / "runs").iterdir()
    for step, words in (
        ("evaluate", ()),
        ("calibrate", ()),
        ("export", ()),
        ("gate", ("--waive", "accuracy_jpeg=one epoch")),
        ("publish", ("--store", "store")),
        ("report", ()),
    ):
        done = training(step, str(run), *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ModelStore(tmp_path / "store").versions("digits-resnet20") == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Exit code 130, no traceback, and the command that it prints is one that works."""
    words = (
        "run",
        "--model",
        "mine",
        "--epochs",
        "6",
        "--set",
        "accuracy_floor=0",
        "--store",
        "my store",
        "--waive",
        "accuracy_jpeg=short",
    )
    with subprocess.Popen(
        [sys.executable, "-m", "training", *words],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 120
        while (
            not list(tmp_path.glob("runs/*/metrics.jsonl"))
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.01)  # the first of the epochs has ended then
        process.send_signal(number)
        output, errors = process.communicate()
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors
    (resume_command,) = [
        line.removeprefix("resume with: ")
        for line in output.splitlines()
        if line.startswith("resume with: ")
    ]
    resumed = training(
        *shlex.split(resume_command)[3:], "--waive", "accuracy_jpeg=short", cwd=tmp_path
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "published mine version 1" in resumed.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("run --data mnist", "there is no data 'mnist'"),
        ("run --arch resnet21", "there is no architecture 'resnet21'"),
        ("run --recipe mine", "there is no recipe 'mine'"),
        ("run --set epochs=none", "`epochs`"),
        ("run --model a/b", "a/b"),
        ("run --waive accuracy_floor", "CHECK=REASON"),
        ("run --epochs 0", "0 is not in the range"),
        (
            "run --waive acuracy_floor=slip",
            "there is no check acuracy_floor; there are parity_batch_1",
        ),
        ("run --store /dev/null/store", "cannot write to the store"),
        ("run --runs /dev/null/runs", ": Not a directory"),
        ("run --recipe /", "there is no recipe '/'"),
        ("run --device nowhere", "there is no device 'nowhere'"),
        ("run --start missing.pth --recipe digits", "there is no file missing.pth"),
        ("run --start no-such-model --recipe digits", "there is no model 'no-such-model'"),
        (
            "run --arch plain20 --start torchvision --recipe digits",
            "torchvision has no pretrained plain20",
        ),
        ("retrain no-such-model --data digits", "there is no model 'no-such-model'"),
        ("retrain cifar10", "Missing option '--data'"),
        ("evaluate .", "has no config.json"),
        ("calibrate .", "has no config.json"),
        ("calibrate . --twin .", "has no config.json"),
        ("calibrate . --twin nowhere", "does not exist"),
        ("compare .", "has no config.json"),
        ("resume nowhere", "does not exist"),
        ("check nowhere", "there is no data 'nowhere'"),
    ],
)
def test_a_wrong_word_gets_one_line_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    """What is wrong is said, with what there is instead."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code in {1, 2}
    assert message in done.stderr
    assert not list(tmp_path.glob("**/*.pt"))


def test_check_shows_a_table_and_refuses_what_a_run_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 with the reason for data that can not be trained on; every finding in JSON for a program."""
    monkeypatch.chdir(tmp_path)
    for label, shade in (("cat", 10), ("dog", 200)):
        for number in range(4):
            path = tmp_path / "pets" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (shade, number, 0)).save(path)
    (tmp_path / "pets/cat/broken.jpg").write_text("no picture")
    done = CliRunner().invoke(main, ["check", "pets", "--json", "found.json"])
    assert done.exit_code == 0, done.output
    assert "cat/broken.jpg" in done.output
    assert json.loads((tmp_path / "found.json").read_text())["left_out"] == 1
    (tmp_path / "pets/empty").mkdir()
    refused = CliRunner().invoke(main, ["check", "pets"])
    assert refused.exit_code == 1
    assert "empty" in refused.stderr


def test_help_teaches() -> None:
    """Each command says what it is for; the recipes are listed with their purpose."""
    overview = CliRunner().invoke(main, ["--help"]).output
    for command in (
        "check",
        "run",
        "resume",
        "retrain",
        "runs",
        "compare",
        "report",
        "find-lr",
        "recipes",
    ):
        assert f"\n  {command} " in overview
    for command in ("run", "retrain", "find-lr", "check"):
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
    assert "He et al. 2015" in CliRunner().invoke(main, ["recipes"]).output


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_recipe_passes_its_gates(tmp_path: Path) -> None:
    """The built-in digits model's own command, from nothing to a published version, with nothing waived."""
    done = training(
        "run",
        "--data",
        "digits",
        "--arch",
        "resnet20",
        "--store",
        "store",
        "--model",
        "digits-resnet20",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with ModelStore(tmp_path / "store").open("digits-resnet20", 1) as version:
        assert version.manifest.metrics is not None
        assert version.manifest.metrics.top1 >= 0.98
        assert all(check.passed for check in version.manifest.gate)
