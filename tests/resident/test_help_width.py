"""The help of every command fits 80 columns."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from model_store.command_line import LazyCommand
from resident.cli import main


def commands(command: click.Command, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of this command and of all commands below it."""
    if isinstance(command, LazyCommand):
        command = command.load()
    yield words
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, *words, name)


@pytest.mark.parametrize("words", list(commands(main)), ids=" ".join)
def test_help_fits_80_columns(words: tuple[str, ...]) -> None:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert [line for line in done.output.splitlines() if len(line) > 80] == []
