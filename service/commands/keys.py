"""`python -m service keys`: create, list, rotate and remove API keys."""

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click

from model_store.command_line import (
    CommandGroup,
    SharedOption,
    describe_path,
    echo_json,
    json_option,
)
from model_store.errors import InvalidNameError
from model_store.names import check_name
from service.key_changes import KeyNameError, add_key, remove_key, rotate_key
from service.key_file import (
    SCOPES,
    ApiKey,
    ApiKeysError,
    Scope,
    default_key_file,
    last_used_directory,
    read_keys,
)

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_MAX_DAYS: Final = 36_500


def parse_duration(text: str) -> timedelta:
    """Parse a whole number and a unit: 90d, 12h, 30m or 10s."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text.strip())
    duration = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
    if duration is None or duration.days > _MAX_DAYS:
        raise click.BadParameter(f"{text!r} is not a duration; expected one like 90d, 12h, 30m")
    return duration


class KeysGroup(CommandGroup):
    """Exits with code 2 if a name is wrong, and with 1 if the file cannot be used."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except KeyNameError as error:
            raise click.UsageError(str(error)) from error
        except ApiKeysError as error:
            raise click.ClickException(str(error)) from error


keys_option = SharedOption(
    ["--keys", "path"],
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_key_file,
    show_default=describe_path(default_key_file()),
    envvar="SERVICE_KEYS",
    show_envvar=True,
    help="File of API keys.",
)


@click.group(cls=KeysGroup, shared=[keys_option])
def keys() -> None:
    """Create, list, rotate and remove API keys. A running service follows a change immediately.

    \b
      python -m service keys add deploy --scope manage

    The routes that load, unload and promote versions need a key with the scope `manage`. Predicting
    needs a key only if there is one with the scope `predict`, and reading metrics only if there is
    one with the scope `metrics`.
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What the key may do. Repeat the option for several scopes.",
)
@click.option(
    "--expires-in",
    type=parse_duration,
    metavar="DURATION",
    help="Lifetime of the key, like 90d, 12h or 30m. By default, it never expires.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.001, 1e9),
    help="Most requests per second, on average, of one service; beyond that, the key gets 429.",
)
def add(
    name: str,
    scopes: tuple[Scope, ...],
    expires_in: timedelta | None,
    rate: float | None,
    path: Path,
) -> None:
    """Create a key and print its secret once. Only a hash of the secret is stored.

    \b
      python -m service keys add deploy --scope manage
      curl -X POST -H "Authorization: Bearer KEY" \\
        http://127.0.0.1:8000/v1/models/MODEL/versions/2/promote

    NAME says who uses the key. It is recorded with every promotion.
    """
    try:
        check_name(name, "key")
    except InvalidNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    secret = add_key(path, name, scopes, expires_in=expires_in, requests_per_second=rate)
    _show(secret, path)


@keys.command()
@click.argument("name")
@click.option(
    "--overlap",
    type=parse_duration,
    metavar="DURATION",
    default="24h",
    show_default=True,
    help="How long the previous secret also works, like 24h. 0s ends it at once.",
)
@click.option(
    "--expires-in",
    type=parse_duration,
    metavar="DURATION",
    help="A new lifetime of the key, like 90d.",
)
def rotate(name: str, overlap: timedelta, expires_in: timedelta | None, path: Path) -> None:
    """Give a key a new secret and print it. Name, scopes and rate stay the same.

    \b
      python -m service keys rotate app --overlap 24h
    """
    secret = rotate_key(path, name, overlap=overlap, expires_in=expires_in)
    _show(secret, path)


@keys.command(name="list")
@json_option
@click.pass_context
def list_keys(context: click.Context, path: Path, *, as_json: bool) -> None:
    """List the keys: name, scopes, and when each was created, expires and was used last (UTC).

    \b
      python -m service keys list
    """
    stored = read_keys(path, trust_any_owner=True)
    if as_json:
        echo_json([_to_json(key, path) for key in stored])
        return
    if not stored:
        click.echo("There are no keys. Everyone may predict, nobody may manage versions.")
        group = context.command_path.rpartition(" ")[0]
        option = "" if path == default_key_file() else f"--keys {shlex.quote(str(path))} "
        click.echo(f"Create one: {group} {option}add NAME --scope manage")
    for key in stored:
        click.echo(_describe(key, path))


@keys.command()
@click.argument("name")
def remove(name: str, path: Path) -> None:
    """Remove a key. Requests that use it are rejected from now on.

    \b
      python -m service keys remove deploy
    """
    everyone_predicts = remove_key(path, name)
    click.echo(f"Removed {name}.")
    if everyone_predicts:
        click.echo("It was the last key with the scope predict, so everyone may predict now.")


def _show(secret: str, path: Path) -> None:
    click.echo(secret)
    click.echo(f"Copy the key now: it is not shown again. {path} stores its hash.", err=True)


def _describe(key: ApiKey, path: Path) -> str:
    columns = [f"{key.name:20}", f"{','.join(key.scopes):22}", f"created {_format(key.created_at)}"]
    if key.expires_at:
        expired = key.expires_at <= datetime.now(UTC)
        columns.append(f"{'EXPIRED' if expired else 'expires'} {_format(key.expires_at)}")
    if key.previous and key.previous.expires_at > datetime.now(UTC):
        columns.append(f"previous secret until {_format(key.previous.expires_at)}")
    if key.requests_per_second:
        columns.append(f"{key.requests_per_second:g} requests/s")
    used = _find_last_use(key, path)
    columns.append(f"used {_format(used) if used else 'never'}")
    return "  ".join(columns)


def _to_json(key: ApiKey, path: Path) -> dict[str, Any]:
    """What a key may do and when it is valid; no hash of a secret."""

    def moment(value: datetime | None) -> str | None:
        return value.astimezone(UTC).isoformat(timespec="seconds") if value else None

    return {
        "name": key.name,
        "scopes": list(key.scopes),
        "created_at": moment(key.created_at),
        "expires_at": moment(key.expires_at),
        "previous_expires_at": moment(key.previous.expires_at if key.previous else None),
        "requests_per_second": key.requests_per_second,
        "used_at": moment(_find_last_use(key, path)),
    }


def _find_last_use(key: ApiKey, path: Path) -> datetime | None:
    try:
        seconds = (last_used_directory(path) / key.name).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC)


def _format(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
