"""`python -m model_store`: look at a store, verify it, move its aliases, prune it."""

import sys
from pathlib import Path

import click
import onnxruntime

from model_store import golden
from model_store.aliases import PRODUCTION
from model_store.errors import ModelStoreError
from model_store.manifest import Check, Manifest
from model_store.providers import CUDA
from model_store.session import NEEDS_CUDA, Session, SessionOptions
from model_store.store import DEFAULT_ROOT, ModelStore
from model_store.version import Version

MODEL = click.argument("model")
ALIAS = click.option("--alias", default=PRODUCTION, show_default=True, help="The alias to move.")
WHY = click.option("--why", default="", help="The reason, kept in the alias's history.")


class StoreGroup(click.Group):
    """Turns the store's own errors into one line and exit code 1: a person reads them, not a traceback."""

    def invoke(self, context: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(context)
        except ModelStoreError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=StoreGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store",
    "root",
    type=click.Path(path_type=Path),
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="SERVICE_STORE",
    show_envvar=True,
    help="The store's root. The models that ship with the project lie under it, read-only.",
)
@click.pass_context
def main(context: click.Context, root: Path) -> None:
    """Look at a model store, verify its sealed versions, and move its aliases.

    A VERSION is a positive integer or an alias; without one, `production` counts, and without that the latest.
    """
    context.obj = ModelStore(root)


@main.command(name="list")
@click.argument("model", required=False)
@click.pass_obj
def list_versions(store: ModelStore, model: str | None) -> None:
    """List the models, their versions, aliases and test accuracy."""
    rows = [("MODEL", "VERSION", "LAYER", "ALIASES", "TOP-1", "CREATED", "DIGEST")]
    for name in [model] if model else store.models():
        aliases = store.aliases(name)
        pointing = {alias: aliases.version(alias) for alias in aliases.names()}
        for number in store.versions(name):
            with store.open(name, number, verify=False) as version:
                manifest = version.manifest
                names = ",".join(alias for alias, target in pointing.items() if target == number)
                top1 = f"{manifest.metrics.top1:.2%}" if manifest.metrics else "-"
                created = f"{manifest.created_at:%Y-%m-%d %H:%M}"
                mark = "" if manifest.proof == "proven" else f"  {manifest.proof}"
                rows.append(
                    (
                        name,
                        str(number),
                        version.layer,
                        names or "-",
                        top1,
                        created,
                        version.digest[:12] + mark,
                    )
                )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


@main.command()
@MODEL
@click.argument("version", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as it lies on disk.")
@click.pass_obj
def show(store: ModelStore, model: str, version: str | None, *, as_json: bool) -> None:
    """Show what one version is, where it comes from and what its gates found."""
    with store.open(model, store.resolve(model, version), verify=False) as opened:
        if as_json:
            click.echo(opened.manifest.to_bytes(), nl=False)
            return
        click.echo(f"{opened} ({opened.layer}, {opened.manifest.proof})  sha256:{opened.digest}")
        for line in _summary(opened.manifest):
            click.echo(f"  {line}")


@main.command()
@click.argument("model", required=False)
@click.argument("version", required=False)
@click.option(
    "--run/--no-run",
    default=True,
    help="Also run the golden proof, as the service does before it serves.",
)
@click.pass_obj
def verify(store: ModelStore, model: str | None, version: str | None, *, run: bool) -> None:
    """Hold files against their seals and run the golden proof: one version, all of a model, or the whole store."""
    failed = 0
    for name in [model] if model else store.models():
        for number in [store.resolve(name, version)] if version else store.versions(name):
            try:
                with store.open(name, number) as opened:
                    proofs = f", {', '.join(_prove(opened))}" if run else ""
                    counts = f"{len(opened.manifest.files)} files, {len(opened.manifest.golden)} golden images"
                    click.echo(f"ok      {opened}  {counts}{proofs}")
            except ModelStoreError as error:
                failed += 1
                click.echo(f"FAILED  {name}/{number}  {type(error).__name__}: {error}")
    if failed:
        sys.exit(1)


@main.command()
@MODEL
@click.argument("version")
@ALIAS
@WHY
@click.pass_obj
def promote(store: ModelStore, model: str, version: str, alias: str, why: str) -> None:
    """Point an alias to a version that is there."""
    number = store.resolve(model, version)
    store.promote(model, number, alias, why)
    click.echo(f"{alias} of {model} now points to version {number}")


@main.command()
@MODEL
@ALIAS
@WHY
@click.pass_obj
def rollback(store: ModelStore, model: str, alias: str, why: str) -> None:
    """Point an alias back to what it named before its newest promotion."""
    click.echo(f"{alias} of {model} points to version {store.rollback(model, alias, why)} again")


@main.command()
@MODEL
@click.pass_obj
def aliases(store: ModelStore, model: str) -> None:
    """Show where a model's aliases point, and every move they made."""
    store.versions(model)  # a model that does not exist is an error, not an empty list
    names = store.aliases(model).names()
    if not names:
        click.echo(f"{model} has no aliases; its latest version counts")
    for alias in names:
        history = store.aliases(model).history(alias)
        click.echo(f"{alias} -> {history[-1].version}" if history else f"{alias}: never moved")
        for event in reversed(history):
            click.echo(
                f"  {event.when:%Y-%m-%d %H:%M:%S}  {event.action:8}  {event.version:>4}  {event.by}  {event.why}".rstrip()
            )


@main.command()
@MODEL
@click.option(
    "--keep",
    default=3,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many of the newest to keep, and of each alias's past.",
)
@click.option("--yes", is_flag=True, help="Delete. Without it you see what would be deleted.")
@click.pass_obj
def prune(store: ModelStore, model: str, keep: int, *, yes: bool) -> None:
    """Delete versions that no alias, no reader and no history window needs."""
    report = store.prune(model, keep, dry_run=not yes)
    for number, reason in report.kept.items():
        click.echo(f"keep    {model}/{number}  {reason}")
    for number in report.deleted:
        click.echo(f"{'deleted' if yes else 'delete '} {model}/{number}")
    for leftover in report.leftovers:
        click.echo(
            f"{'deleted' if yes else 'delete '} {model}/{leftover}  left by a process that was killed"
        )
    if not yes and (report.deleted or report.leftovers):
        click.echo("nothing was deleted; add --yes to do so")


def _prove(version: Version) -> list[str]:
    """Run the proof of every variant that can run here, and say of each how it went."""
    manifest, told = version.manifest, []
    gpu = CUDA in onnxruntime.get_available_providers()
    for variant in manifest.variants:
        on_gpu = variant.precision in NEEDS_CUDA
        if on_gpu and not gpu:
            told.append(f"{variant.precision} not run: it needs a GPU")
            continue
        options = SessionOptions(providers=(CUDA, "CPUExecutionProvider")) if on_gpu else None
        session = Session(version.path(variant.file), manifest.input, manifest.outputs, options)
        golden.prove(version, session, variant.precision)
        told.append(
            f"{variant.precision} proven"
            if manifest.golden
            else f"{variant.precision} runs, unproven"
        )
    return told


def _summary(manifest: Manifest) -> list[str]:
    size = sum(entry.size for entry in manifest.files)
    lines = [
        f"created   {manifest.created_at:%Y-%m-%d %H:%M} UTC, {len(manifest.files)} files, {size / 1e6:.2f} MB",
        f"input     {manifest.input.height}x{manifest.input.width} RGB, {manifest.preprocessing.interpolation} resize",
        f"classes   {len(manifest.class_names)}: {', '.join(manifest.class_names[:10])}"
        + ", …" * (len(manifest.class_names) > 10),
        f"variants  {', '.join(variant.precision for variant in manifest.variants)}; batches up to {manifest.max_batch_size}",
    ]
    if origin := manifest.derived_from:
        lines.append(f"follows   {origin.model}/{origin.version}  {origin.digest}")
    if imported := manifest.imported:
        lines.append(
            f"imported  {imported.name} ({imported.kind}), sha256 {imported.sha256}; {imported.report} says what was guessed"
        )
    if training := manifest.training:
        lines += [
            f"trained   {training.architecture} on {training.data.name}, epoch {training.best_epoch} of {training.epochs}",
            f"command   {training.command}",
        ]
    if metrics := manifest.metrics:
        interval = (
            f" (95 % {metrics.top1_interval[0]:.2%} to {metrics.top1_interval[1]:.2%})"
            if metrics.top1_interval
            else ""
        )
        lines.append(
            f"test      top-1 {metrics.top1:.2%}{interval} of {metrics.test_images} images"
        )
    lines += [_line(check) for check in manifest.gate]
    for variant in manifest.variants:
        size = next(entry.size for entry in manifest.files if entry.path == variant.file)
        lines.append(
            f"{variant.precision:9} {variant.file}, {size / 1e6:.2f} MB, golden logits within {variant.tolerance:.3g}"
        )
        lines += [f"  {_line(check)}" for check in variant.gate]
    return lines


def _line(check: Check) -> str:
    verdict = "ok" if check.passed else f"WAIVED: {check.waived}" if check.waived else "FAILED"
    bound = f"{check.comparison.replace('_', ' ')} {check.threshold:g}"
    return f"gate      {check.check:24} {check.value:<12.6g} {bound:20} {verdict}"


if __name__ == "__main__":
    main(prog_name="python -m model_store")
