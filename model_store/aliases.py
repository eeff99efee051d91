"""Aliases: the only mutable thing in a store, each an append-only row of small numbered event files.

`<store>/<model>/aliases/<alias>/<number>.json` holds {action, version, when, by, why}. An event is claimed by an exclusive
link to a file that is already complete and synced, so two movers can not lose each other's event, a crash leaves no half
event, and the history is free. An alias is a wish: what serves is the newest version it pointed to that proved itself.
"""

import errno
import getpass
import os
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from model_store.errors import AliasError, InvalidNameError, StoreReadOnlyError
from model_store.files import make_directory_durably, sync_directory, write_durably
from model_store.manifest import now
from model_store.names import check_name, is_name
from model_store.validation import FrozenModel

DIRECTORY_NAME = "aliases"
PRODUCTION = "production"
_SUFFIX = ".json"
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_EVENT = re.compile(r"[0-9]{8}\.json")


class AliasEvent(FrozenModel):
    """One move of an alias."""

    action: Literal["promote", "rollback"]
    version: Annotated[int, Field(ge=1)]
    when: AwareDatetime
    by: str
    why: str = ""


class Aliases:
    """The aliases of one model. Reading never writes; moving appends one event and never touches a version."""

    def __init__(self, model: str, model_directory: Path) -> None:
        self._model = model
        self._directory = model_directory / DIRECTORY_NAME

    def names(self) -> list[str]:
        """The aliases that exist, sorted."""
        return sorted(name for name in self._list(self._directory) if is_alias_name(name))

    def history(self, alias: str) -> list[AliasEvent]:
        """All events of an alias, oldest first; empty where it does not exist. Raises AliasError on a damaged event."""
        return [self._read(alias, number) for number in self._numbers(alias)]

    def stamp(self, alias: str) -> object:
        """Equal to an earlier one only where no event has come since and the directory is the same. Raises AliasError."""
        try:
            status = (self._directory / alias).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AliasError(
                f"{self._model}: its aliases can not be read: {error.strerror}"
            ) from error
        return status.st_ino, status.st_mtime_ns, tuple(self._numbers(alias))

    def version(self, alias: str) -> int | None:
        """The version that the alias points to, or None where the alias does not exist."""
        numbers = self._numbers(alias)
        return self._read(alias, numbers[-1]).version if numbers else None

    def promote(self, alias: str, version: int, why: str = "", by: str | None = None) -> AliasEvent:
        """Point the alias to `version`. That the version exists is the store's business to check."""
        return self._append(alias, lambda _: ("promote", version), why, by)

    def rollback(
        self,
        alias: str,
        why: str = "",
        by: str | None = None,
        among: Collection[int] | None = None,
        to: int | None = None,
    ) -> AliasEvent:
        """Point the alias to what it named before its newest promotion; with `among`, to one of these versions alone.

        Raises AliasError where there is nothing before, or where that is another than `to`.
        """

        def decide(history: Sequence[AliasEvent]) -> tuple[Literal["rollback"], int]:
            version = self._previous(alias, history, among)
            if to not in {None, version}:
                raise AliasError(
                    f"{self._model}: {alias} was moved meanwhile: it would go back to version {version}, not to {to}; look again"
                )
            return "rollback", version

        return self._append(alias, decide, why, by)

    def previous(self, alias: str, among: Collection[int] | None = None) -> int:
        """Where `rollback` would point the alias to now. Raises AliasError where there is nothing before."""
        return self._previous(alias, self.history(alias), among)

    def _previous(
        self, alias: str, history: Sequence[AliasEvent], among: Collection[int] | None
    ) -> int:
        for version in reversed(standing(history)[:-1]):
            if among is None or version in among:
                return version
        raise AliasError(
            f"{self._model}: {alias} named no other version that is still there, so there is nothing to roll back to"
        )

    def _append(
        self,
        alias: str,
        decide: Callable[[Sequence[AliasEvent]], tuple[Literal["promote", "rollback"], int]],
        why: str,
        by: str | None,
    ) -> AliasEvent:
        check_alias_name(alias)
        directory = self._directory / alias
        try:
            return self._append_event(directory, alias, decide, why, by)
        except OSError as error:
            kind = StoreReadOnlyError if error.errno in _READ_ONLY else AliasError
            raise kind(f"{self._model}: {alias} can not be moved: {error.strerror}") from error

    def _append_event(
        self,
        directory: Path,
        alias: str,
        decide: Callable[[Sequence[AliasEvent]], tuple[Literal["promote", "rollback"], int]],
        why: str,
        by: str | None,
    ) -> AliasEvent:
        while True:
            numbers = self._numbers(alias)
            action, version = decide([self._read(alias, number) for number in numbers])
            make_directory_durably(
                directory
            )  # only now: a move that is refused leaves nothing behind
            event = AliasEvent(
                action=action, version=version, when=now(), by=by or _current_user(), why=why
            )
            draft = directory / f".draft-{secrets.token_hex(8)}"
            write_durably(draft, event.model_dump_json().encode() + b"\n")
            try:
                os.link(draft, directory / f"{(numbers[-1] if numbers else 0) + 1:08d}{_SUFFIX}")
            except FileExistsError:
                continue  # another mover was first: look again at what is true now
            finally:
                draft.unlink()
            sync_directory(directory)
            return event

    def _numbers(self, alias: str) -> list[int]:
        check_name(alias, "alias")
        return sorted(
            int(name.removesuffix(_SUFFIX))
            for name in self._list(self._directory / alias)
            if _EVENT.fullmatch(name)
        )

    def _list(self, directory: Path) -> list[str]:
        try:
            return os.listdir(directory)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AliasError(
                f"{self._model}: its aliases can not be read: {error.strerror}"
            ) from error

    def _read(self, alias: str, number: int) -> AliasEvent:
        path = self._directory / alias / f"{number:08d}{_SUFFIX}"
        try:
            return AliasEvent.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise AliasError(
                f"{self._model}: event {number} of alias {alias} is damaged: {type(error).__name__}"
            ) from None


def standing(history: Sequence[AliasEvent]) -> list[int]:
    """The versions that rollbacks would walk through, newest last, when a rollback undoes the newest standing promotion."""
    stack: list[int] = []
    for event in history:
        if event.action == "rollback":
            while stack and stack[-1] != event.version:
                stack.pop()
        if not stack or stack[-1] != event.version:
            stack.append(event.version)
    return stack


def is_alias_name(name: str) -> bool:
    """Whether `name` can be an alias: a name that begins with a letter, so that none is taken for a version."""
    return name[:1].isalpha() and is_name(name)


def check_alias_name(name: str) -> None:
    """Raise InvalidNameError where `name` can not be an alias."""
    if not is_alias_name(name):
        raise InvalidNameError(
            f"{name!r} is no alias name: it must begin with a letter, for a number is a version"
        )


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"
