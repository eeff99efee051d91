"""`python -m training`: exit codes, tables and one-line errors."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from signing_keys import write_keys

from model_store.signature import TrustedKeys
from model_store.store import ModelStore
from training.__main__ import main
from training.commands.common import interruptible
from training.learning.distributed import SINGLE_PROCESS

ROOT = Path(__file__).parent.parent.parent


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a user without any files."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "HOME": str(home)}


def training(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m training` in a directory."""
    return subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=cwd,
        env=environment(cwd),
        capture_output=True,
        text=True,
        check=False,
    )


def invoke(*words: str) -> Result:
    """Run the command in this process: a child takes seconds to import torch."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(main, words)


@pytest.mark.slow
def test_a_failed_gate_stops_the_run_and_a_waiver_publishes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 with a table of checks. The resumed run does not train again."""
    monkeypatch.chdir(tmp_path)
    words = "run --data digits --arch resnet20 --store store --model mine --epochs 1"
    stopped = training(*words.split(), cwd=tmp_path)
    assert stopped.returncode == 1
    assert "accuracy_floor" in stopped.stdout
    assert "FAILED" in stopped.stdout
    assert "not published" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    store = ModelStore(tmp_path / "store")
    assert not list(store.root.iterdir()), "the store was created, and nothing was published"
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "report.html").exists()
    waivers = ("--waive", "accuracy_floor=one epoch", "--waive", "accuracy_jpeg=one epoch")
    private, public = write_keys(tmp_path, "publisher")
    resumed = invoke("resume", str(run), "--store", "store", *waivers, "--sign-key", str(private))
    assert resumed.exit_code == 0, resumed.output
    assert "published mine version 1" in resumed.stdout
    with store.open("mine", 1) as version:
        assert version.read_file("report.html") == (run / "published_report.html").read_bytes()
    assert "epoch 1/1" not in resumed.stdout
    trusting = ModelStore(store.root, trusted_keys=TrustedKeys.read(public))
    with trusting.open("mine", 1) as version:
        waived = {check.check: check.waived for check in version.manifest.gate}
        assert waived["accuracy_floor"] == "one epoch"
        assert version.manifest.training is not None
        assert version.manifest.training.command == (
            "python -m training run --arch resnet20 --image-size 32 --model mine --data digits "
            "--recipe digits --set epochs=1 --seed 0"
        )
    assert store.aliases("mine").names() == [], "a waived check prevents the promotion"
    again = invoke("resume", str(run), "--store", "store", *waivers)
    assert "published mine version 1" in again.stdout, "a run is published once"
    listed = invoke("runs")
    assert "mine" in listed.stdout
    assert "published" in listed.stdout


@pytest.mark.slow
def test_the_steps_publish_what_run_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train`, `evaluate`, `calibrate`, `export`, `gate` and `publish` take the run directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(
        'extends = "digits"\naccuracy_floor = 0.0\niterations = 4\n'
    )
    trained = invoke("train", "--recipe", "mine.toml")
    assert trained.exit_code == 0, trained.output
    (run,) = (tmp_path / "runs").iterdir()
    for step, words in (
        ("evaluate", ()),
        ("calibrate", ()),
        ("export", ()),
        ("gate", ("--waive", "accuracy_jpeg=four steps")),
        ("publish", ("--store", "store")),
        ("report", ()),
    ):
        result = invoke(step, str(run), *words)
        assert result.exit_code == 0, result.output
    assert ModelStore(tmp_path / "store").versions("digits-resnet20") == [1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_stops_after_the_step_and_the_second_at_once(
    number: signal.Signals,
) -> None:
    """The previous handlers are restored."""
    previous = signal.getsignal(number)
    with interruptible(SINGLE_PROCESS) as interrupted:
        assert not interrupted()
        signal.raise_signal(number)
        assert interrupted()
        with pytest.raises(SystemExit) as exit_info:
            signal.raise_signal(number)
    assert exit_info.value.code == 128 + number
    assert signal.getsignal(number) is previous


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_prints_the_command_that_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """The exit code is 130, and the command works."""
    monkeypatch.chdir(tmp_path)
    words = "run --model mine --epochs 3 --set accuracy_floor=0 --waive accuracy_jpeg=short"
    with subprocess.Popen(
        [sys.executable, "-m", "training", *words.split(), "--store", "my store"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        # The file appears when the first epoch ends. pytest-timeout ends a test that never sees it.
        while not list(tmp_path.glob("runs/*/metrics.jsonl")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        output, errors = process.communicate()
    assert process.returncode == 130, output + errors
    assert "Traceback" not in errors
    (resume_command,) = [
        line.removeprefix("resume with: ")
        for line in output.splitlines()
        if line.startswith("resume with: ")
    ]
    resumed = invoke(*shlex.split(resume_command)[3:], "--waive", "accuracy_jpeg=short")
    assert resumed.exit_code == 0, resumed.output
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
def test_invalid_values_are_rejected_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    """Exit code 1 or 2 and one message that names the value."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert not list(tmp_path.glob("**/*.pt"))


def test_check_rejects_the_data_that_a_run_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Findings are shown as a table and written as JSON. Unusable data has exit code 1."""
    monkeypatch.chdir(tmp_path)
    for label, shade in (("cat", 10), ("dog", 200)):
        for number in range(4):
            path = tmp_path / "pets" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 12), (shade, number, 0)).save(path)
    (tmp_path / "pets/cat/broken.jpg").write_text("not an image")
    result = CliRunner().invoke(main, ["check", "pets", "--json", "found.json"])
    assert result.exit_code == 0, result.output
    assert "cat/broken.jpg" in result.output
    assert json.loads((tmp_path / "found.json").read_text())["left_out"] == 1
    (tmp_path / "pets/empty").mkdir()
    rejected = CliRunner().invoke(main, ["check", "pets"])
    assert rejected.exit_code == 1
    assert "empty" in rejected.stderr


def test_help_lists_commands_and_recipes() -> None:
    """Each command has its own help, and each recipe its source."""
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
def test_the_recipe_of_the_digits_passes_its_gates(tmp_path: Path) -> None:
    """The command of the built-in model publishes without waivers, even after 25 epochs."""
    words = (
        "run --data digits --arch resnet20 --set epochs=25 --store store --model digits-resnet20"
    )
    result = training(*words.split(), cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    with ModelStore(tmp_path / "store").open("digits-resnet20", 1) as version:
        assert version.manifest.metrics is not None
        assert version.manifest.metrics.top1 >= 0.98
        assert all(check.passed for check in version.manifest.gate)
