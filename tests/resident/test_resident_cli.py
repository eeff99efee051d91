"""The command `resident`: every command runs, is listed with its help, and says what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from model_store.command_line import LazyCommand
from resident.cli import SECTIONS, main

COMMANDS = [name for _, entries in SECTIONS.values() for name, _, _ in entries]
GROUPS = {"store", "keys", "experiment"}


def load(name: str) -> click.Command:
    command = main.commands[name]
    assert isinstance(command, LazyCommand)
    return command.load()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_help(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert f"{name} [OPTIONS]" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_boolean_option_is_a_flag_that_takes_no_value(name: str) -> None:
    for option in load(name).params:
        if isinstance(option, click.Option):
            assert option.type is not click.BOOL or option.is_flag, option.name


def test_every_command_of_the_packages_is_there() -> None:
    from training.__main__ import main as training  # noqa: PLC0415  the environment has torch

    assert set(training.commands) <= set(COMMANDS)


@pytest.mark.parametrize("arguments", [["--store", "{}", "list"], ["list", "--store", "{}"]])
def test_the_store_is_accepted_before_and_after_the_command(
    arguments: list[str], tmp_path: Path
) -> None:
    words = [word.format(tmp_path) for word in arguments]
    done = CliRunner().invoke(main, ["store", *words])
    assert done.exit_code == 0
    assert "cifar10" in done.output


def test_an_expected_error_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert done.output.count("\n") == 1


def test_a_wrong_option_ends_with_exit_code_2() -> None:
    assert CliRunner().invoke(main, ["serve", "--no-such-option"]).exit_code == 2


def test_the_shell_completes_commands_and_options() -> None:
    def complete(words: str, incomplete: str) -> list[str]:
        shell = BashComplete(main, {}, "resident", "_RESIDENT_COMPLETE")
        return [item.value for item in shell.get_completions(words.split(), incomplete)]

    assert complete("", "exp") == ["experiment", "export"]
    assert complete("run", "--arc") == ["--arch"]
    assert complete("store", "prom") == ["promote"]


def test_the_help_imports_no_package_of_a_command() -> None:
    code = (
        "import sys; from resident.cli import main; main(['--help'], standalone_mode=False); "
        "print([m for m in ('torch', 'fastapi', 'onnxruntime', 'training') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_whose_packages_are_missing_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')")
    done = subprocess.run(
        [sys.executable, "-m", "resident", "run", "--data", "digits"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "torch" in done.stderr
    assert ".[training]" in done.stderr
