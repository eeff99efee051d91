"""Aliases: names such as `production` that point to a version, the only mutable part of a store.

Each is an append-only sequence of event files, `<store>/<model>/aliases/<alias>/<number>.json`. An
event is written and synced first and then hard-linked to its number. So concurrent moves never
overwrite each other, and a crash leaves no half-written event.

An alias states which version is desired. The service serves the newest version that the alias
pointed to and that passed its golden proof.
"""

import errno
import getpass
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from model_store.errors import AliasError, InvalidNameError, StoreReadOnlyError
from model_store.files import (
    make_directory_durably,
    open_regular_below,
    opened_directory,
    read_open_file,
    sync_directory,
    write_durably,
)
from model_store.manifest import now
from model_store.names import check_name
from model_store.validation import FrozenModel

DIRECTORY_NAME = "aliases"
ALIAS_PATTERN = r"[A-Za-z][A-Za-z0-9._-]{0,127}"
PRODUCTION = "production"
MAX_EVENT_BYTES = 64 * 1024
DRAFT_PREFIX = ".draft-"
_ABANDONED_AFTER_SECONDS = 3600
_SUFFIX = ".json"
_READ_ONLY_ERRORS = {errno.EROFS, errno.EACCES, errno.EPERM}
_EVENT_NAME = re.compile(r"[0-9]{8}\.json")


class AliasEvent(FrozenModel):
    """One move of an alias."""

    action: Literal["promote", "rollback"] = Field(description="What moved the alias.")
    version: int = Field(ge=1, description="The version that the alias points to after the move.")
    when: AwareDatetime = Field(description="When it was moved, in UTC.")
    by: str = Field(description="Name of the user or of the API key.")
    why: str = Field(default="", description="The reason that was given.")


class Aliases:
    """The aliases of one model.

    Moving one appends one event. Neither reading nor moving changes a version.
    """

    def __init__(self, model: str, model_directory: Path) -> None:
        self._model = model
        self._directory = model_directory / DIRECTORY_NAME

    def names(self) -> list[str]:
        """The aliases that exist, sorted. Raises AliasError if they cannot be read."""
        return sorted(name for name in self._list() if is_alias_name(name))

    def history(self, alias: str) -> list[AliasEvent]:
        """All events of an alias, oldest first; empty if it does not exist.

        Raises:
            AliasError: An event is damaged or cannot be read.
        """
        return [self._read(alias, number) for number in self._numbers(alias)]

    def change_token(self, alias: str) -> object:
        """A value that changes with every event of the alias.

        Raises:
            AliasError: The directory cannot be read.
        """
        try:
            status = (self._directory / alias).stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AliasError(
                f"{self._model}: its aliases cannot be read: {error.strerror}"
            ) from error
        return status.st_ino, status.st_mtime_ns, tuple(self._numbers(alias))

    def version(self, alias: str) -> int | None:
        """The version that the alias points to, or None if it does not exist. Raises AliasError."""
        numbers = self._numbers(alias)
        return self._read(alias, numbers[-1]).version if numbers else None

    def promote(self, alias: str, version: int, why: str = "", by: str | None = None) -> AliasEvent:
        """Point the alias to `version`; `ModelStore.promote` also checks that the version exists.

        Raises:
            AliasError: The event cannot be written; StoreReadOnlyError if the store is read-only.
            InvalidNameError: `alias` is not a valid name.
        """
        return self._append(alias, lambda _: ("promote", version), why, by)

    def rollback(
        self,
        alias: str,
        why: str = "",
        by: str | None = None,
        among: Collection[int] | None = None,
        to: int | None = None,
    ) -> AliasEvent:
        """Point the alias to the version before its newest promotion.

        Args:
            alias: Name of the alias.
            why: Reason, kept in the history.
            by: Who moves it; the operating system's user by default.
            among: Only versions in this collection count, such as those that still exist.
            to: The version that the caller expects.

        Raises:
            AliasError: There is no earlier version, it is not `to`, or the alias cannot be moved.
        """

        def decide(history: Sequence[AliasEvent]) -> tuple[Literal["rollback"], int]:
            version = self._previous(alias, history, among)
            if to not in {None, version}:
                raise AliasError(
                    f"{self._model}: {alias} was moved in the meantime and would now roll back to "
                    f"version {version}, not to {to}. Check its history and try again"
                )
            return "rollback", version

        return self._append(alias, decide, why, by)

    def abandoned_drafts(self) -> list[Path]:
        """Files that killed processes left behind while they moved an alias.

        Raises:
            AliasError: A directory cannot be read.
        """
        newest = time.time() - _ABANDONED_AFTER_SECONDS
        drafts = []
        for alias in self.names():
            for name in sorted(self._list(alias)):
                path = self._directory / alias / name
                with suppress(FileNotFoundError):  # another process has just finished its move
                    if name.startswith(DRAFT_PREFIX) and path.lstat().st_mtime < newest:
                        drafts.append(path)
        return drafts

    def previous(self, alias: str, among: Collection[int] | None = None) -> int:
        """The version that `rollback` would choose. Raises AliasError if there is none."""
        return self._previous(alias, self.history(alias), among)

    def _previous(
        self, alias: str, history: Sequence[AliasEvent], among: Collection[int] | None
    ) -> int:
        for version in reversed(rollback_history(history)[:-1]):
            if among is None or version in among:
                return version
        raise AliasError(
            f"{self._model}: {alias} cannot be rolled back, because no other version that it "
            "pointed to still exists"
        )

    def _append(
        self,
        alias: str,
        decide: Callable[[Sequence[AliasEvent]], tuple[Literal["promote", "rollback"], int]],
        why: str,
        by: str | None,
    ) -> AliasEvent:
        check_alias_name(alias)
        try:
            return self._append_event(alias, decide, why, by)
        except OSError as error:
            kind = StoreReadOnlyError if error.errno in _READ_ONLY_ERRORS else AliasError
            raise kind(f"{self._model}: {alias} cannot be moved: {error.strerror}") from error

    def _append_event(
        self,
        alias: str,
        decide: Callable[[Sequence[AliasEvent]], tuple[Literal["promote", "rollback"], int]],
        why: str,
        by: str | None,
    ) -> AliasEvent:
        while True:
            numbers = self._numbers(alias)
            action, version = decide([self._read(alias, number) for number in numbers])
            event = AliasEvent(
                action=action, version=version, when=now(), by=by or _current_user(), why=why
            )
            data = event.model_dump_json().encode() + b"\n"
            if len(data) > MAX_EVENT_BYTES:
                raise AliasError(
                    f"{self._model}: {alias} cannot be moved: the reason must be shorter, because "
                    f"an event has at most {MAX_EVENT_BYTES} bytes"
                )
            try:
                self._create_event(alias, _event_name((numbers[-1] if numbers else 0) + 1), data)
            except FileExistsError:
                continue  # another process moved the alias first, so decide again
            return event

    def _create_event(self, alias: str, name: str, data: bytes) -> None:
        """Write a complete event. Raises FileExistsError if there is one of that name."""
        directory = self._directory / alias
        make_directory_durably(directory)
        draft = directory / f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
        write_durably(draft, data)
        try:
            os.link(draft, directory / name)
        finally:
            draft.unlink(missing_ok=True)
        sync_directory(directory)

    def _numbers(self, alias: str) -> list[int]:
        check_name(alias, "alias")
        return sorted(
            int(name.removesuffix(_SUFFIX))
            for name in self._list(alias)
            if _EVENT_NAME.fullmatch(name)
        )

    def _list(self, alias: str = "") -> list[str]:
        """The names in the directory of an alias, or in the one of all aliases."""
        try:
            with opened_directory(self._directory, alias) as descriptor:
                return os.listdir(descriptor)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AliasError(
                f"{self._model}: its aliases cannot be read: {error.strerror}"
            ) from error

    def _read_event(self, alias: str, name: str) -> bytes:
        path = f"{alias}/{name}"
        with open_regular_below(self._directory, path) as file:
            return read_open_file(file, Path(path), MAX_EVENT_BYTES)

    def _read(self, alias: str, number: int) -> AliasEvent:
        try:
            data = self._read_event(alias, _event_name(number))
            return AliasEvent.model_validate_json(data)
        except (OSError, ValidationError) as error:
            raise AliasError(
                f"{self._model}: event {number} of alias {alias} is damaged: {type(error).__name__}"
            ) from None


def _event_name(number: int) -> str:
    return f"{number:08d}{_SUFFIX}"


def rollback_history(history: Sequence[AliasEvent]) -> list[int]:
    """The versions to which repeated rollbacks lead, the current one last.

    A promotion pushes a version; a rollback removes those after the version that it restored.
    """
    stack: list[int] = []
    for event in history:
        if event.action == "rollback":
            while stack and stack[-1] != event.version:
                stack.pop()
        if not stack or stack[-1] != event.version:
            stack.append(event.version)
    return stack


def is_alias_name(name: str) -> bool:
    """Whether `name` is a valid alias: a name that begins with a letter, unlike a version."""
    return re.fullmatch(ALIAS_PATTERN, name, re.ASCII) is not None


def check_alias_name(name: str) -> None:
    """Raise InvalidNameError unless `name` is a valid alias."""
    if not is_alias_name(name):
        raise InvalidNameError(
            f"{name!r} is not a valid alias name: it must begin with a letter, because a number "
            "is a version"
        )


def _current_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        return f"uid {os.getuid()}"
