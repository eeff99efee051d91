"""`python -m model_store`: list, show and verify versions, move aliases, prune."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import onnxruntime

from model_store import golden
from model_store.aliases import PRODUCTION, AliasEvent
from model_store.command_line import CommandGroup, SharedOption, echo_json, json_option
from model_store.copying import copy_versions
from model_store.errors import AliasError, ModelStoreError
from model_store.names import printable
from model_store.open_store import (
    StoreLocation,
    StoreLocationType,
    open_store,
    parse_store_location,
)
from model_store.providers import CPU, CUDA
from model_store.sealed_model import load_variant
from model_store.session import NEEDS_CUDA, SessionOptions
from model_store.store import DEFAULT_ROOT, ModelStore
from model_store.version import Version
from model_store.version_text import describe_version, table


class StoreType(click.ParamType[ModelStore]):
    """A model store on the command line: a directory or a URL."""

    name = "directory or URL"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> ModelStore:
        """Return the store, which is not read yet."""
        return open_store(StoreLocationType().convert(value, param, ctx))


STORE = SharedOption(
    ["--store"],
    type=StoreType(),
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="SERVICE_STORE",
    show_envvar=True,
    help="The model store: a directory, or a URL like s3://bucket/models. The built-in models "
    "are always below it, read-only.",
)
model_argument = click.argument("model")
alias_option = click.option(
    "--alias", default=PRODUCTION, show_default=True, help="The alias to move."
)
why_option = click.option("--why", default="", help="Reason, kept in the alias's history.")


@click.group(cls=CommandGroup, shared=[STORE])
def main() -> None:
    """Inspect a model store, verify its versions and move its aliases.

    \b
      python -m model_store list
      python -m model_store promote flowers 3 --why "better on dusk"

    VERSION is a number or an alias. Without one, the version of `production` is used,
    or the latest version if there is no such alias.
    """


@main.command(name="list")
@click.argument("model", required=False)
@json_option
def list_versions(store: ModelStore, model: str | None, *, as_json: bool) -> None:
    """List models, versions, aliases and test accuracy.

    A version or an alias that cannot be read is listed with `error`, and the exit code is 1.

    \b
      python -m model_store list flowers
    """
    rows = list(_version_rows(store, model))
    if as_json:
        echo_json(rows)
        if any(row["error"] for row in rows):
            sys.exit(1)
        return
    header = ("MODEL", "VERSION", "LAYER", "ALIASES", "TOP-1", "CREATED", "DIGEST", "PROOF")
    cells = [
        (
            row["model"],
            str(row["version"] or "-"),
            row["layer"],
            ",".join(row["aliases"]) or "-",
            "-" if row["top1"] is None else f"{row['top1']:.2%}",
            (row["created_at"] or "-")[:16].replace("T", " "),
            (row["digest"] or "-")[:12],
            row["proof"] or "-",
        )
        for row in rows
    ]
    for line in table([header, *cells]):
        click.echo(line)
    problems = dict.fromkeys(row["error"] for row in rows if row["error"])
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    if problems:
        sys.exit(1)


@main.command()
@model_argument
@click.argument("version", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print `manifest.json` as it is on disk.")
def show(store: ModelStore, model: str, version: str | None, *, as_json: bool) -> None:
    """Show the content, the origin and the gate results of a version.

    \b
      python -m model_store show flowers production
    """
    with store.open_manifest(model, store.resolve(model, version)) as opened:
        if as_json:
            click.echo(opened.manifest.to_bytes(), nl=False)
        else:
            for line in describe_version(opened):
                click.echo(printable(line))


@main.command()
@click.argument("model", required=False)
@click.argument("version", required=False)
@click.option(
    "--run/--no-run",
    default=True,
    show_default=True,
    help="Also run the golden proof, as the service does before it serves a version.",
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Ed25519 public keys in PEM, one of which must have signed each published version.",
)
@json_option
def verify(
    store: ModelStore,
    model: str | None,
    version: str | None,
    *,
    run: bool,
    public_key: Path | None,
    as_json: bool,
) -> None:
    """Compare files with their sealed sha256 and run the golden proof.

    Checks one version, all versions of a model, or the whole store. The exit code is 1 if a version
    fails.

    \b
      python -m model_store verify flowers 3
    """
    if public_key:
        from model_store.signature import TrustedKeys  # noqa: PLC0415  takes 30 ms

        location = parse_store_location(store.location)
        store = open_store(location, trusted_keys=TrustedKeys.read(public_key))
    results = []
    for name in [model] if model else store.models():
        for number in [store.resolve(name, version)] if version else store.versions(name):
            result = _verify(store, name, number, run=run)
            results.append(result)
            if not as_json:
                click.echo(_verdict(result))
    if as_json:
        echo_json(results)
    if not all(result["ok"] for result in results):
        sys.exit(1)


@main.command()
@model_argument
@click.argument("version")
@alias_option
@why_option
def promote(store: ModelStore, model: str, version: str, alias: str, why: str) -> None:
    """Point an alias to a published version.

    \b
      python -m model_store promote flowers 3 --why "better on dusk"
    """
    number = store.resolve(model, version)
    store.promote(model, number, alias, why)
    click.echo(f"{alias} of {model} now points to version {number}")


@main.command()
@model_argument
@alias_option
@why_option
def rollback(store: ModelStore, model: str, alias: str, why: str) -> None:
    """Point an alias back to the version before its latest promotion.

    \b
      python -m model_store rollback flowers --why "worse at night"
    """
    number = store.rollback(model, alias, why)
    click.echo(f"{alias} of {model} points to version {number} again")


@main.command()
@model_argument
@json_option
def aliases(store: ModelStore, model: str, *, as_json: bool) -> None:
    """Show where the aliases of a model point, and their history.

    \b
      python -m model_store aliases flowers
    """
    store.versions(model)  # raises if the model does not exist
    known = store.aliases(model)
    histories = {alias: known.history(alias) for alias in known.names()}
    if as_json:
        echo_json({alias: _alias_row(history) for alias, history in histories.items()})
        return
    if not histories:
        click.echo(f"{model} has no aliases, so its latest version is used")
    for alias, history in histories.items():
        click.echo(f"{alias} -> {history[-1].version}" if history else f"{alias}: never moved")
        for event in reversed(history):
            when = f"{event.when:%Y-%m-%d %H:%M:%S}"
            line = f"  {when}  {event.action:8}  {event.version:>4}  {event.by}  {event.why}"
            click.echo(printable(line.rstrip()))


@main.command()
@click.argument("source", type=StoreLocationType())
@click.argument("destination", type=StoreLocationType())
@click.argument("models", metavar="[MODEL]...", nargs=-1)
def copy(
    store: ModelStore,  # noqa: ARG001  shared by all commands; this one names both stores
    source: StoreLocation,
    destination: StoreLocation,
    models: tuple[str, ...],
) -> None:
    """Copy versions from the store SOURCE into the store DESTINATION.

    \b
      python -m model_store copy model_store/models /srv/models flowers
      python -m model_store copy model_store/models s3://bucket/models

    Without MODEL, every model is copied. Versions that DESTINATION already has are skipped. Aliases
    are not copied: `promote` decides what the destination serves.
    """
    source_store, destination_store = (open_store(each, None) for each in (source, destination))
    if not source_store.exists():
        raise click.UsageError(f"there is no store {source_store.location}")
    destination_store.create()
    for version in copy_versions(source_store, destination_store, models):
        verb = "copied " if version.is_new else "skipped"
        path = f"{version.model}/{version.source}"
        click.echo(f"{verb} {path} -> {version.model}/{version.destination}")


@main.command()
@model_argument
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="Number of latest versions to keep, and of versions to which each alias can roll back.",
)
@click.option("--yes", is_flag=True, help="Delete. Without it, only show what would be deleted.")
@click.pass_context
def prune(context: click.Context, store: ModelStore, model: str, keep: int, *, yes: bool) -> None:
    """Delete old versions that no alias needs and no process has open.

    \b
      python -m model_store prune flowers --keep 5 --yes
    """
    report = store.prune(model, keep, dry_run=not yes)
    for number, reason in report.kept.items():
        click.echo(f"keep    {model}/{number}  {reason}")
    verb = "deleted" if yes else "delete "
    for number in report.deleted:
        click.echo(f"{verb} {model}/{number}")
    for leftover in report.leftovers:
        click.echo(f"{verb} {model}/{leftover}  left by a killed process")
    if not yes and (report.deleted or report.leftovers):
        command = [*context.command_path.split(), model, "--keep", str(keep)]
        command += ["--store", store.location, "--yes"]
        click.echo(f"Nothing was deleted. To delete, run: {shlex.join(command)}")


def _version_rows(store: ModelStore, model: str | None) -> Iterator[dict[str, Any]]:
    contents = store.contents()
    if model and model not in contents:
        store.versions(model)  # raises, because there is no such model
    for name in [model] if model else contents:
        listed = contents[name]
        targets, alias_error = _alias_targets(store, name)
        if listed.error:
            yield _row(name, None, listed.layer, (), listed.error)
        for number in listed.versions:
            aliases = [alias for alias, target in targets.items() if target == number]
            row = _row(name, number, listed.layer, aliases, alias_error)
            try:
                with store.open_manifest(name, number) as version:
                    manifest = version.manifest
                    row["top1"] = manifest.metrics.top1 if manifest.metrics else None
                    row["created_at"] = manifest.created_at.isoformat()
                    row["digest"] = version.digest
                    row["proof"] = manifest.proof
            except ModelStoreError as error:
                row["error"] = printable(str(error))
            yield row


def _row(
    model: str, version: int | None, layer: str, aliases: Sequence[str], error: str | None
) -> dict[str, Any]:
    """A row of `list`; columns from the manifest are None."""
    manifest_columns = dict.fromkeys(("top1", "created_at", "digest", "proof"))
    row = {"model": model, "version": version, "layer": layer, "aliases": list(aliases)}
    return row | manifest_columns | {"error": error}


def _alias_targets(store: ModelStore, model: str) -> tuple[dict[str, int | None], str | None]:
    """The version of each readable alias, and the last problem with any other."""
    aliases = store.aliases(model)
    targets: dict[str, int | None] = {}
    problem = None
    try:
        for alias in aliases.names():
            try:
                targets[alias] = aliases.version(alias)
            except AliasError as error:
                problem = str(error)
    except AliasError as error:
        problem = str(error)
    return targets, problem


def _verify(store: ModelStore, model: str, number: int, *, run: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"model": model, "version": number, "ok": False}
    try:
        with store.open(model, number) as opened:
            result["files"] = len(opened.manifest.files)
            result["golden_images"] = len(opened.manifest.golden)
            result["variants"] = _prove_variants(opened) if run else {}
    except ModelStoreError as error:
        return result | {"error": type(error).__name__, "reason": str(error)}
    return result | {"ok": True}


def _prove_variants(version: Version) -> dict[str, str]:
    """The result of the golden proof by precision. Raises ModelStoreError."""
    manifest = version.manifest
    results: dict[str, str] = {}
    gpu = CUDA in onnxruntime.get_available_providers()
    for variant in manifest.variants:
        on_gpu = variant.precision in NEEDS_CUDA
        if on_gpu and not gpu:
            results[variant.precision] = "not run, needs a GPU"
            continue
        options = SessionOptions(providers=(CUDA, CPU)) if on_gpu else None
        session = load_variant(version, variant, options)
        golden.prove(version, session, variant.precision)
        results[variant.precision] = "proven" if manifest.golden else "runs, unproven"
    return results


def _verdict(result: dict[str, Any]) -> str:
    version = f"{result['model']}/{result['version']}"
    if not result["ok"]:
        return f"FAILED  {version}  {result['error']}: {result['reason']}"
    parts = [f"{result['files']} files", f"{result['golden_images']} golden images"]
    parts += [f"{precision} {outcome}" for precision, outcome in result["variants"].items()]
    return f"ok      {version}  {', '.join(parts)}"


def _alias_row(history: list[AliasEvent]) -> dict[str, Any]:
    return {
        "version": history[-1].version if history else None,
        "history": [event.model_dump(mode="json") for event in history],
    }


if __name__ == "__main__":
    main(prog_name="python -m model_store")
