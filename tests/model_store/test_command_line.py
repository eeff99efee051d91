"""What every command line of the project does alike."""

import errno
import json
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from model_store import __version__
from model_store.command_line import (
    CommandGroup,
    LazyCommand,
    SharedOption,
    as_called,
    describe_path,
    echo_json,
    format_command,
    json_option,
    wrap_text,
)
from model_store.errors import ModelNotFoundError

REPOSITORY = Path(__file__).resolve().parents[2]


def load_missing() -> click.Command:
    raise ModuleNotFoundError("No module named 'torch'", name="torch")


@pytest.fixture
def group() -> click.Group:
    """A program with a command, a group of commands and two lazy commands."""

    @click.group(cls=CommandGroup, shared=[SharedOption(["--store"], default="models")])
    def main() -> None:
        """Do things with a store."""

    @main.command()
    @click.argument("kind", default="")
    def show(store: str, kind: str) -> None:
        """Show a store."""
        if kind == "unknown":
            raise ModelNotFoundError("there is no such model")
        if kind == "unreadable":
            raise OSError(errno.EACCES, "Permission denied", "models")
        click.echo(store)

    @click.group(cls=CommandGroup)
    def nested() -> None:
        """Do more."""

    @nested.command(name="show")
    def nested_show(store: str) -> None:
        click.echo(store)

    @click.command()
    @json_option
    def heavy(store: str, *, as_json: bool) -> None:
        """Load torch and work."""
        echo_json({"store": store, "json": as_json})

    main.add_command(nested)
    main.add_command(LazyCommand("heavy", lambda: heavy, summary="Work hard.", extra="training"))
    main.add_command(LazyCommand("missing", load_missing, summary="Never works.", extra="training"))
    return main


def run(group: click.Group, *arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


@pytest.mark.parametrize(
    ("arguments", "store"),
    [
        (("show",), "models"),
        (("--store", "a", "show"), "a"),
        (("show", "--store", "a"), "a"),
        (("--store", "a", "show", "--store", "b"), "b"),
        (("--store", "a", "nested", "show"), "a"),
        (("nested", "--store", "a", "show"), "a"),
        (("nested", "show", "--store", "a"), "a"),
    ],
)
def test_a_shared_option_works_in_every_place(
    group: click.Group, arguments: tuple[str, ...], store: str
) -> None:
    """The value nearest the command counts."""
    assert run(group, *arguments).output.strip() == store


def test_the_help_of_a_command_lists_a_shared_option(group: click.Group) -> None:
    """Nobody has to know that it belongs to the group."""
    assert "--store" in run(group, "show", "--help").output


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_imports_no_lazy_command(group: click.Group, flag: str) -> None:
    """The line of each command is known without its code."""
    output = run(group, flag).output
    assert "Work hard." in output
    assert "Never works." in output


@pytest.mark.parametrize("arguments", [("heavy", "--store", "a"), ("--store", "a", "heavy")])
def test_a_lazy_command_runs_with_shared_options(
    group: click.Group, arguments: tuple[str, ...]
) -> None:
    """It behaves as any other command once it is imported."""
    result = run(group, *arguments, "--json")
    assert json.loads(result.stdout) == {"store": "a", "json": True}


def test_a_missing_package_names_the_extra(group: click.Group) -> None:
    """The error is a command to paste."""
    result = run(group, "missing")
    assert result.exit_code == 1
    assert "torch" in result.stderr
    assert "[training]" in result.stderr


@pytest.mark.parametrize("kind", ["unknown", "unreadable"])
def test_an_expected_error_is_one_line(group: click.Group, kind: str) -> None:
    """No traceback, and exit code 1."""
    result = run(group, "show", kind)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.count("\n") == 1


def test_a_wrong_command_line_has_exit_code_2(group: click.Group) -> None:
    """A script can tell a mistake in the command from a failure."""
    assert run(group, "show", "--unknown").exit_code == 2


def test_the_version_is_that_of_the_project(group: click.Group) -> None:
    """`--version` and `pyproject.toml` agree."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert __version__ in run(group, "--version").output


def test_text_is_wrapped_and_long_words_stay_whole() -> None:
    assert wrap_text("one two three\nfour", 8) == "one two\nthree\nfour"
    assert wrap_text("see /a/long/path-of/a/file", 8) == "see\n/a/long/path-of/a/file"


def test_a_long_command_continues_on_lines_that_a_shell_joins() -> None:
    words = ["python", "-c", "import sys; print(sys.argv[1:])", "a b", "--option", "x" * 30, "y"]
    assert format_command("next", words[:2], 80) == "next: python -c"
    title, *lines = format_command("next", words, 50).splitlines()
    assert title == "next:"
    assert max(map(len, lines)) <= 50
    assert shlex.split("\n".join(lines).replace("\\\n", " ")) == words


def test_paths_in_the_home_directory_are_written_with_a_tilde(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert describe_path(tmp_path / ".cache" / "resident") == "~/.cache/resident"
    assert describe_path(Path("/var/cache")) == "/var/cache"


@pytest.mark.parametrize(
    ("program", "commands"),
    [
        ("resident", ["resident serve", "resident keys", "resident store list", "resident run"]),
        (
            "python -m training",
            [
                "python -m service",
                "python -m service keys",
                "python -m model_store list",
                "python -m training run",
            ],
        ),
    ],
)
def test_suggested_commands_have_the_name_that_the_user_called(
    program: str, commands: list[str]
) -> None:
    @click.command()
    def main() -> None:
        for command in ("service", "service keys", "model_store list", "training run"):
            click.echo(as_called(command))

    assert CliRunner().invoke(main, prog_name=program).output.splitlines() == commands
