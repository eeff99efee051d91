"""Change the file of API keys: `python -m service keys add`, `rotate` and `remove`."""

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from model_store.files import DirectoryLock, open_atomically
from model_store.manifest import now
from service.key_file import (
    ApiKey,
    ApiKeysError,
    KeyFile,
    PreviousSecret,
    Scope,
    hash_secret,
    last_used_directory,
    read_key_file,
    scopes_of,
)

KEY_BYTES: Final = 32
KEY_PREFIX: Final = "resident_"  # lets secret scanners find a key that was committed by mistake


class KeyNameError(ApiKeysError):
    """The new key's name is taken, or the key to change does not exist."""


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    *,
    expires_in: timedelta | None = None,
    requests_per_second: float | None = None,
) -> str:
    """Create a key and return its secret, which is not stored.

    Raises:
        KeyNameError: A key with this name exists.
        ApiKeysError: The file cannot be read or changed.
    """
    with _locked_keys(path) as (keys, status):
        if any(key.name == name for key in keys):
            raise KeyNameError(
                f"a key named {name} exists; choose another name, or replace its secret: "
                f"python -m service keys rotate {name}"
            )
        secret = _new_secret()
        key = ApiKey(
            name=name,
            scopes=tuple(sorted(set(scopes))),
            sha256=hash_secret(secret),
            created_at=now(),
            expires_at=_from_now(expires_in),
            requests_per_second=requests_per_second,
        )
        _replace_file(path, (*keys, key), status)
    return secret


def rotate_key(
    path: Path, name: str, *, overlap: timedelta, expires_in: timedelta | None = None
) -> str:
    """Give a key a new secret and return it. The previous secret works until `overlap` has passed.

    Args:
        path: The file.
        name: The key. Its scopes and its rate limit stay as they are.
        overlap: Time in which both secrets work. An even older secret ends at once.
        expires_in: The new lifetime of the key. None keeps it, but an expired key has to get one.

    Raises:
        KeyNameError: No key has this name, or it has expired and gets no new lifetime.
        ApiKeysError: The file cannot be read or changed.
    """
    with _locked_keys(path) as (keys, status):
        old = _find(keys, name)
        if old.expires_at and old.expires_at <= now() and expires_in is None:
            raise KeyNameError(f"the key {name} has expired; pass --expires-in to renew it")
        secret = _new_secret()
        changes = {
            "sha256": hash_secret(secret),
            "expires_at": _from_now(expires_in) or old.expires_at,
            "previous": PreviousSecret(sha256=old.sha256, expires_at=_end_of_overlap(old, overlap)),
        }
        new = old.model_copy(update=changes)
        _replace_file(path, tuple(new if key is old else key for key in keys), status)
    return secret


def remove_key(path: Path, name: str) -> bool:
    """Remove a key. Returns True if this allows everyone to predict.

    Raises:
        KeyNameError: No key has this name.
        ApiKeysError: The file cannot be read or changed.
    """
    with _locked_keys(path) as (keys, status):
        removed = _find(keys, name)
        remaining = tuple(key for key in keys if key is not removed)
        _replace_file(path, remaining, status)
        with suppress(OSError):  # a new key of this name was never used
            (last_used_directory(path) / name).unlink(missing_ok=True)
    return "predict" in scopes_of(keys) - scopes_of(remaining)


def _new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def _from_now(seconds: timedelta | None) -> datetime | None:
    return None if seconds is None else now() + seconds


def _end_of_overlap(key: ApiKey, overlap: timedelta) -> datetime:
    end = now() + overlap
    return end if key.expires_at is None else min(end, key.expires_at)


def _find(keys: Sequence[ApiKey], name: str) -> ApiKey:
    for key in keys:
        if key.name == name:
            return key
    existing = ", ".join(key.name for key in keys) or "none"
    raise KeyNameError(f"no key is named {name}; existing keys: {existing}")


@contextmanager
def _locked_keys(path: Path) -> Iterator[tuple[tuple[ApiKey, ...], os.stat_result | None]]:
    """Lock the file against changes by other processes; yields its keys and its status."""
    if path.parts[:1] == ("~",):
        raise ApiKeysError(
            "this user has no home directory; name the file of API keys by --keys or SERVICE_KEYS"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(path.parent, exclusive=True)
    except BlockingIOError:
        raise ApiKeysError("another process is changing the API keys; try again") from None
    except OSError as error:
        raise ApiKeysError(f"cannot change API keys in {path}: {error.strerror}") from None
    try:
        yield read_key_file(path, trust_any_owner=True)
    finally:
        lock.release()


def _replace_file(path: Path, keys: tuple[ApiKey, ...], status: os.stat_result | None) -> None:
    """Replace the file atomically and keep its owner, group and mode; a new file has mode 0600."""
    try:
        with open_atomically(path, mode=0o600) as file:
            file.write(
                KeyFile(keys=keys).model_dump_json(indent=1, exclude_none=True).encode() + b"\n"
            )
            _copy_owner_and_mode(file.fileno(), path, status)
    except OSError as error:
        raise ApiKeysError(f"cannot write API keys to {path}: {error.strerror}") from None


def _copy_owner_and_mode(descriptor: int, path: Path, status: os.stat_result | None) -> None:
    own = os.fstat(descriptor)
    # Root creates the file for the user who owns the directory.
    owner = status or (path.parent.stat() if os.geteuid() == 0 else own)
    if (owner.st_uid, owner.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except PermissionError:
            raise ApiKeysError(
                f"changing {path} would change its owner or group; run this command as root"
            ) from None
    if status:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
