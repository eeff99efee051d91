"""The `add-embedding` command: publish a version again with the output `embedding`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.console import Console

from model_store.open_store import StoreLocation, open_store
from training.commands.early_checks import check_version
from training.commands.options import PROMOTE, SIGN_KEY, STORE, pass_console
from training.promotion import check_no_promote

if TYPE_CHECKING:
    from model_store.signature import SigningKey


@click.command()
@click.argument("model")
@STORE
@SIGN_KEY
@PROMOTE
@pass_console
def add_embedding(
    console: Console,
    model: str,
    store: StoreLocation,
    signing_key: SigningKey | None,
    *,
    promote: bool,
) -> None:
    """Publish MODEL or MODEL/VERSION with the output `embedding`, as the next version.

    \b
    python -m training add-embedding flowers

    Versions that older releases published have no such output. Nothing is trained, and the logits
    stay the same bit for bit.
    """
    check_version(model, store)
    from training.commands.common import print_published
    from training.derived_version import publish_derived
    from training.display import TrainingDisplay
    from training.importing.embedding_output import add_embedding_output
    from training.quantization.publication import open_source_version

    model_store = open_store(store, signing_key=signing_key)
    model_store.create()
    if not promote:
        check_no_promote(model_store, model.partition("/")[0])
    with open_source_version(model_store, model) as version, TrainingDisplay(console) as display:
        data, outputs = add_embedding_output(version)
        file = version.variant("fp32").file
        files = {entry.path: version.read_file(entry.path) for entry in version.manifest.files}
        published = publish_derived(
            version,
            model_store,
            {"outputs": outputs},
            {**files, file: data},
            why=f"{version} with an embedding",
            promote=promote,
        )
        print_published(display, version.model, published, store)
