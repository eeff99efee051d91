"""Publishes a changed version as the next version of its model."""

from collections.abc import Mapping
from typing import Any

from model_store.aliases import PRODUCTION
from model_store.errors import AliasError
from model_store.manifest import now
from model_store.provenance import VersionReference
from model_store.store import ModelStore
from model_store.version import Version
from training.promotion import check_no_promote, pin_serving_version
from training.steps.publish import Published


def publish_derived(
    version: Version,
    store: ModelStore,
    changes: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    why: str,
    promote: bool,
    passed: bool = True,
) -> Published:
    """Seal `files` with the manifest of `version` and its changes as the model's next version.

    `production` moves to it if it pointed to `version` or did not exist. A change of an older
    version must not cause a rollback.

    Args:
        version: The version that was changed.
        store: Where to publish.
        changes: Fields of the manifest that differ.
        files: Contents by path.
        why: The reason in the history of `production`.
        promote: Whether `production` may move.
        passed: Whether every check of the new version passed without a waiver.

    Raises:
        PublishError: If `promote` is False but the new version would be served anyway.
    """
    model, manifest = version.model, version.manifest
    fields: dict[str, Any] = {name: getattr(manifest, name) for name in type(manifest).model_fields}
    del fields["files"], fields["model"]
    fields |= {
        "created_at": now(),
        "derived_from": VersionReference(
            model=model, version=version.number, digest=version.digest
        ),
        "signature": None,  # valid for the old manifest only
        **changes,
    }
    if not promote:
        check_no_promote(store, model)
    promoted = (
        promote
        and passed
        and all(check.passed for check in manifest.gate)
        and _serving_version(store, model) in {None, version.number}
        and manifest.proof == "proven"
    )
    if not promoted:
        pin_serving_version(store, model)
    number = store.publish(model, fields, files)
    if promoted:
        store.promote(model, number, why=why)
    return Published(number, promoted=store.aliases(model).version(PRODUCTION) == number)


def _serving_version(store: ModelStore, model: str) -> int | None:
    """The version of `production`. Without that alias, the newest version is served."""
    try:
        aliased = store.aliases(model).version(PRODUCTION)
    except AliasError:
        return None
    return store.versions(model)[-1] if aliased is None else aliased
