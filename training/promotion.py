"""Checks before a publish, and which version serves after it."""

from contextlib import suppress
from typing import get_args

from model_store.aliases import PRODUCTION, rollback_history
from model_store.errors import ManifestError, PublishError
from model_store.manifest import Precision
from model_store.store import ModelStore


def check_no_promote(store: ModelStore, model: str) -> None:
    """Raise PublishError if a new version of the model would serve even with `--no-promote`.

    Built-in models have no aliases, so any version under their name replaces them.
    """
    store.create()
    if model in store.models() and store.layer(model) == "built-in":
        raise PublishError(
            f"{model} is a built-in model: a version published under its name serves at once, even "
            "with --no-promote. Leave out --no-promote, or publish to a store that the service "
            "does not read (--store)"
        )


def pin_serving_version(store: ModelStore, model: str) -> None:
    """Point `production` to the newest version if it points nowhere.

    Without `production`, the newest version serves, even one that is published without promotion.
    Call this before such a publish, so that the current version keeps serving.
    """
    if not store.exists() or model not in store.models() or store.layer(model) == "built-in":
        return
    if store.aliases(model).version(PRODUCTION) is None:
        why = "it was serving when a version was published without promotion"
        store.promote(model, store.versions(model)[-1], why=why)


def missing_precisions(
    store: ModelStore, model: str, version: int
) -> tuple[int, tuple[Precision, ...]] | None:
    """Return the version that served before and its precisions that `version` lacks, or None."""
    existing = store.versions(model)
    served = rollback_history(store.aliases(model).history(PRODUCTION)) or existing
    candidates = (number for number in reversed(served) if number != version)
    before = next((number for number in candidates if number in existing), None)
    if before is None:
        return None
    with suppress(ManifestError):  # a damaged version has no precisions
        with (
            store.open_manifest(model, before) as old,
            store.open_manifest(model, version) as new,
        ):
            present, previous = (
                {variant.precision for variant in each.manifest.variants} for each in (new, old)
            )
        missing = tuple(name for name in get_args(Precision) if name in previous - present)
        return (before, missing) if missing else None
    return None
