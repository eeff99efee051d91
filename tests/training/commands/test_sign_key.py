"""`--sign-key`: every command that publishes can sign."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from training.__main__ import main


@pytest.mark.parametrize("command", sorted(main.list_commands(click.Context(main))))
def test_commands_that_publish_can_sign(command: str) -> None:
    """They are the commands that can promote."""
    found = main.get_command(click.Context(main), command)
    assert found
    options = {parameter.name for parameter in found.params}
    assert ("promote" in options) == ("signing_key" in options)


def test_a_file_that_is_no_key_is_an_error_of_use(tmp_path: Path) -> None:
    """Before anything is trained."""
    path = tmp_path / "key.pem"
    path.write_text("no key")
    words = ["run", "--data", "digits", "--sign-key", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "--sign-key" in result.output
