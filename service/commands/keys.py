"""`python -m service keys`: create, list and remove API keys."""

from pathlib import Path

import click

from model_store.command_line import CommandGroup, SharedOption, describe_path
from model_store.errors import InvalidNameError
from model_store.names import check_name
from service.key_file import (
    SCOPES,
    ApiKeysError,
    KeyNameError,
    Scope,
    add_key,
    default_key_file,
    read_keys,
    remove_key,
)


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
    """Create, list and remove API keys. A running service follows a change immediately.

    \b
      python -m service keys add deploy --scope manage

    The routes that load, unload and promote versions need a key with the scope `manage`. Predicting
    needs a key only if there is one with the scope `predict`.
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
def add(name: str, scopes: tuple[Scope, ...], path: Path) -> None:
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
    secret = add_key(path, name, scopes)
    click.echo(secret)
    click.echo(f"Copy the key now: it is not shown again. {path} stores its hash.", err=True)


@keys.command(name="list")
def list_keys(path: Path) -> None:
    """List the names, scopes and creation dates (UTC) of the keys.

    \b
      python -m service keys list
    """
    stored = read_keys(path, trust_any_owner=True)
    if not stored:
        click.echo("There are no keys. Everyone may predict, nobody may manage versions.")
        click.echo("Create one: python -m service keys add NAME --scope manage")
    for key in stored:
        click.echo(f"{key.name:20}  {','.join(key.scopes):14}  {key.created_at:%Y-%m-%d %H:%M}")


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
