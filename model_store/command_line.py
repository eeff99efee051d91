"""Conventions that all command lines of the project share, on top of click.

- `-h`, `--help` and `--version` on every group.
- Options of a group work before and after the name of a command.
- Exit code 0: done. 1: an error, one line on stderr. 2: the command line is wrong.
- Output fits the terminal: text is wrapped, and long commands continue after a backslash.
- A command can be imported only when it runs, so that `--help` stays fast and needs no extra.
"""

import copy
import errno
import json
import os
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from model_store import __version__
from model_store.errors import ModelStoreError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def echo_json(value: Any) -> None:
    """Print `value` as JSON for another program to read."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def wrap_text(text: str, width: int) -> str:
    """Wrap each line of `text` at spaces. Longer words, such as paths, stay whole."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.split("\n")
    )


def format_command(title: str, words: Sequence[str | Path], width: int) -> str:
    """Return `title: command` for a shell. A long command continues on indented lines."""
    quoted = [shlex.quote(str(word)) for word in words]
    line = f"{title}: {' '.join(quoted)}"
    if len(line) <= width:
        return line
    lines = [f"{title}:", "  " + quoted[0]]
    for word in quoted[1:]:
        if len(lines[-1]) + len(word) + 3 <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {word}")
    return "\n".join(lines)


def as_called(command: str) -> str:
    """Return a command like `training run` as the user can type it: `resident run`, for example.

    Args:
        command: A package (`service`, `model_store` or `training`), or a package and its command.
    """
    context = click.get_current_context(silent=True)
    program = (context.find_root().info_name if context else None) or ""
    package, _, rest = command.partition(" ")
    if not program.endswith("resident"):
        return f"python -m {command}"
    if package == "service":
        return f"{program} {rest or 'serve'}"
    return " ".join(filter(None, (program, "store" * (package == "model_store"), rest)))


def describe_path(path: Path) -> str:
    """Return a path as people write it, with `~` for the home directory."""
    home = os.path.expanduser("~")  # noqa: PTH111  Path.home raises without a home
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


class SharedOption(click.Option):
    """An option of a group and of each of its commands. The innermost value wins."""

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, ParameterSource]:
        """Take the value from the command line, else the value given to a parent group."""
        value, source = super().consume_value(ctx, opts)
        key = f"{__name__}.{self.name}"
        if source is ParameterSource.COMMANDLINE:
            ctx.meta[key] = value  # click shares `meta` between a group and its command
        elif key in ctx.meta:
            return ctx.meta[key], ParameterSource.COMMANDLINE
        return value, source


class LazyCommand(click.Command):
    """The name and the help of a command whose code is imported when it runs.

    Args:
        name: What the user types.
        load: Imports and returns the command.
        summary: The first sentence of its help.
        extra: The optional dependencies that it needs, as in `pip install '.[training]'`.
    """

    def __init__(
        self, name: str, load: Callable[[], click.Command], summary: str, extra: str | None = None
    ) -> None:
        super().__init__(name, help=summary)
        self._load = load
        self.extra = extra

    def load(self) -> click.Command:
        """Import the command. Raises click.ClickException when a package is missing."""
        try:
            return self._load()
        except ModuleNotFoundError as error:
            if self.extra is None:
                raise
            raise _missing_package(self.name, error, self.extra) from error


class CommandGroup(click.Group):
    """A click group that follows the conventions of this module.

    Args:
        shared: Options that are also accepted after the name of a command. The commands receive
            their values; the group's own function does not.
        expected: Exceptions that are printed as one line and end with exit code 1. `OSError` is
            always among them.
        extra: The optional dependencies that the commands need.
    """

    def __init__(
        self,
        *args: Any,
        shared: Sequence[SharedOption] = (),
        expected: tuple[type[Exception], ...] = (ModelStoreError,),
        extra: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)
        self._shared: list[SharedOption] = []
        self.expected = expected
        self.extra = extra
        for option in shared:
            self.share(option)
        click.version_option(__version__, prog_name="resident")(self)

    def share(self, option: SharedOption) -> None:
        """Accept an option here and on every command below."""
        own = copy.copy(option)
        own.expose_value = False
        self.params.append(own)
        self._shared.append(option)
        for command in self.commands.values():
            _accept(command, option)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Register a command, which accepts the shared options from then on."""
        for option in self._shared:
            _accept(cmd, option)
        super().add_command(cmd, name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that runs, and import it if it is lazy."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, LazyCommand):
            command = command.load()
            for option in self._shared:
                _accept(command, option)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn expected exceptions into one line and exit code 1."""
        try:
            return super().invoke(ctx)
        except self.expected as error:
            raise click.ClickException(str(error)) from error
        except ModuleNotFoundError as error:
            command = self.commands.get(ctx.invoked_subcommand or "")
            extra = command.extra if isinstance(command, LazyCommand) else self.extra
            if extra is None:
                raise
            raise _missing_package(ctx.invoked_subcommand, error, extra) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe is gone: click ends quietly
                raise
            raise click.ClickException(
                f"{error.filename or 'a file'}: {error.strerror or error}"
            ) from error


def _missing_package(
    name: str | None, error: ModuleNotFoundError, extra: str
) -> click.ClickException:
    return click.ClickException(
        f"`{name}` needs the package {error.name}, which is not installed. "
        f"In a checkout of Resident: pip install '.[{extra}]'"
    )


def _accept(command: click.Command, option: SharedOption) -> None:
    if isinstance(command, LazyCommand) or option.name in {own.name for own in command.params}:
        return
    if isinstance(command, CommandGroup):
        command.share(option)
    else:
        command.params.append(option)
