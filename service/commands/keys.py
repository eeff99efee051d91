"""`python -m service keys`: make, list and remove keys."""

from pathlib import Path

import click

from model_store.errors import InvalidNameError
from model_store.names import check_name
from service.http.api_keys import (
    ApiKeysError,
    KeyNameError,
    Scope,
    add_key,
    default_path,
    read_keys,
    remove_key,
)

SCOPES = ("predict", "manage")


class KeysGroup(click.Group):
    """Turns what can not be done into one line and an exit code: 2 where the command was wrong, 1 where the file is."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyNameError as error:
            raise click.UsageError(str(error)) from error
        except ApiKeysError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=KeysGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--keys",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=default_path,
    envvar="SERVICE_KEYS",
    show_envvar=True,
    help="The file that holds the keys' hashes.  [default: keys.json in ~/.config/resident]",
)
@click.pass_context
def main(context: click.Context, path: Path) -> None:
    """Make, list and remove the keys of the service. A running service notices a change at once.

    The routes that load, unload and promote versions need a key with the scope `manage`. Predicting needs one only where
    there is a key with the scope `predict`.
    """
    context.obj = path


@main.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What it may do; give both for both.",
)
@click.pass_obj
def add(path: Path, name: str, scopes: tuple[Scope, ...]) -> None:
    """Make a key and print it, once: only its hash is kept.

    The name says whose it is; what the key promotes is recorded under it.

    \b
      python -m service keys add deploy --scope manage
      curl -X POST -H "Authorization: Bearer KEY" http://127.0.0.1:8000/v1/models/MODEL/versions/2/promote
    """
    try:
        check_name(name, "key")
    except InvalidNameError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None
    secret = add_key(path, name, scopes)
    click.echo(secret)
    click.echo(f"this is the only time that it is shown; {path} holds its hash", err=True)


@main.command(name="list")
@click.pass_obj
def list_keys(path: Path) -> None:
    """List the keys' names, scopes and dates."""
    keys = read_keys(path, by_hand=True)
    if not keys:
        click.echo(
            "there are no keys: the routes that manage versions are shut, and everyone may predict"
        )
    for key in keys:
        click.echo(f"{key.name:20}  {','.join(key.scopes):14}  {key.created_at:%Y-%m-%d %H:%M}")


@main.command()
@click.argument("name")
@click.pass_obj
def remove(path: Path, name: str) -> None:
    """Remove a key: what it opened, it opens no more."""
    opened = remove_key(path, name)
    click.echo(
        f"{name} is removed"
        + (
            "; it was the last with the scope predict, so everyone may predict now"
            if opened
            else ""
        )
    )
