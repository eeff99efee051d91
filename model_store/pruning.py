"""Deletes versions of a model that nothing needs, and leftovers of killed publishers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_store.aliases import Aliases, rollback_history
from model_store.files import DELETION_PREFIX, remove_tree_if_unused
from model_store.names import printable
from model_store.publishing import STAGING_PREFIX
from model_store.store_layout import directories


@dataclass(frozen=True)
class PruneReport:
    """What was deleted, or would be deleted.

    Attributes:
        deleted: Version numbers.
        kept: Why a version was kept, by version number.
        leftovers: Files and directories that killed processes left behind, relative to the model.
    """

    deleted: tuple[int, ...]
    kept: Mapping[int, str]
    leftovers: tuple[str, ...]


def prune_versions(
    directory: Path, versions: Sequence[int], aliases: Aliases, keep: int, *, dry_run: bool
) -> PruneReport:
    """Prune the versions in the directory of a model; see `ModelStore.prune`."""
    kept = needed_versions(versions, aliases, keep)
    deleted = []
    for version in sorted(set(versions) - set(kept)):
        if dry_run or remove_tree_if_unused(directory / str(version)):
            deleted.append(version)
        else:
            kept[version] = "a process has it open"
    return PruneReport(
        tuple(deleted),
        {version: kept[version] for version in versions if version in kept},
        tuple(_remove_leftovers(directory, aliases, dry_run=dry_run)),
    )


def needed_versions(versions: Sequence[int], aliases: Aliases, keep: int) -> dict[int, str]:
    """Why a version is kept, by version number."""
    if keep < 1:
        raise ValueError(f"keep must be at least 1, so that the latest version stays, got {keep}")
    kept = dict.fromkeys(versions[-keep:], f"among the latest {keep}")
    for alias in aliases.names():
        stack = rollback_history(aliases.history(alias))
        kept |= dict.fromkeys(stack[-max(keep, 2) : -1], f"{alias} can be rolled back to it")
        kept |= dict.fromkeys(stack[-1:], f"{alias} points to it")
    return kept


def _remove_leftovers(directory: Path, aliases: Aliases, *, dry_run: bool) -> list[str]:
    leftovers = [
        name
        for name in directories(directory)
        if name.startswith((STAGING_PREFIX, DELETION_PREFIX))
        and (dry_run or remove_tree_if_unused(directory / name))
    ]
    for draft in aliases.abandoned_drafts():
        if not dry_run:
            draft.unlink(missing_ok=True)
        leftovers.append(printable(draft.relative_to(directory).as_posix()))
    return leftovers
