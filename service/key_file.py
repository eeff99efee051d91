"""The file of API keys: `python -m service keys` writes it, and a running service reads it.

A key is 256 random bits, so it cannot be guessed and an unsalted sha256 is safe to store. Slow,
salted hashes protect passwords, which people choose and reuse.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store.files import (
    DirectoryLock,
    UnexpectedFileError,
    open_atomically,
    open_regular,
    read_open_file,
)
from model_store.manifest import now
from model_store.names import Name
from model_store.validation import describe_validation_error

Scope = Literal["predict", "manage"]
SCOPES: Final[tuple[Scope, ...]] = ("predict", "manage")
KEY_BYTES: Final = 32
KEY_PREFIX: Final = "resident_"  # lets secret scanners find a key that was committed by mistake
MAX_FILE_BYTES: Final = 1024 * 1024


class ApiKeysError(Exception):
    """The file of API keys cannot be read or changed."""


class ApiKeysUnreadableError(ApiKeysError):
    """The file could not be read this time; its content may be valid."""


class KeyNameError(ApiKeysError):
    """The new key's name is taken, or the key to remove does not exist."""


class ApiKey(BaseModel):
    """A stored key: everything except the secret itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_at: AwareDatetime


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


def default_key_file() -> Path:
    """`keys.json` in `$XDG_CONFIG_HOME/resident`, or in `~/.config/resident`."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118  Path raises without a home
    return Path(config) / "resident" / "keys.json"


def hash_secret(secret: str) -> str:
    """The sha256 of a key's secret in hex, as the file stores it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def scopes_of(keys: Sequence[ApiKey]) -> frozenset[Scope]:
    return frozenset(scope for key in keys for scope in key.scopes)


def read_keys(path: Path, *, trust_any_owner: bool = False) -> tuple[ApiKey, ...]:
    """Read the keys of a file.

    Args:
        path: The file.
        trust_any_owner: Whether root may read a file that belongs to another user. Set it in
            commands, never in a service that authorises clients by these keys.

    Raises:
        ApiKeysError: The file is damaged, or another user can write to it.
    """
    return read_key_file(path, trust_any_owner=trust_any_owner)[0]


def read_key_file(
    path: Path, *, trust_any_owner: bool
) -> tuple[tuple[ApiKey, ...], os.stat_result | None]:
    """Return the keys and the file's status; `(), None` if it is missing. Raises ApiKeysError."""
    try:
        with open_regular(path, follow_links=True) as file:  # Kubernetes mounts secrets as links
            status = os.fstat(file.fileno())
            data = read_open_file(file, path, MAX_FILE_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return (), None
    except OSError as error:
        kind = ApiKeysError if isinstance(error, UnexpectedFileError) else ApiKeysUnreadableError
        raise kind(f"cannot read API keys from {path}: {error.strerror}") from None
    _check_trusted(path, status, trust_any_owner=trust_any_owner)
    try:
        return _KeyFile.model_validate_json(data).keys, status
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise ApiKeysError(f"cannot read API keys from {path}: {reason}") from None


def add_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Create a key and return its secret, which is not stored.

    Raises:
        KeyNameError: A key with this name exists.
        ApiKeysError: The file cannot be read or changed.
    """
    with _locked_keys(path) as (keys, status):
        if any(key.name == name for key in keys):
            raise KeyNameError(
                f"a key named {name} exists; add the new key under another name, then remove the "
                "old one"
            )
        secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        key = ApiKey(
            name=name,
            scopes=tuple(sorted(set(scopes))),
            sha256=hash_secret(secret),
            created_at=now(),
        )
        _replace_file(path, (*keys, key), status)
    return secret


def remove_key(path: Path, name: str) -> bool:
    """Remove a key. Returns True if this allows everyone to predict.

    Raises:
        KeyNameError: No key has this name.
        ApiKeysError: The file cannot be read or changed.
    """
    with _locked_keys(path) as (keys, status):
        remaining = tuple(key for key in keys if key.name != name)
        if remaining == keys:
            existing = ", ".join(key.name for key in keys) or "none"
            raise KeyNameError(f"no key is named {name}; existing keys: {existing}")
        _replace_file(path, remaining, status)
    return "predict" in scopes_of(keys) - scopes_of(remaining)


def _check_trusted(path: Path, status: os.stat_result, *, trust_any_owner: bool) -> None:
    user = os.geteuid()
    if status.st_uid not in {user, 0} and not (trust_any_owner and user == 0):
        raise ApiKeysError(
            f"cannot trust the API keys in {path}: the file belongs to another user; chown it"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ApiKeysError(
            f"cannot trust the API keys in {path}: others can write to the file; "
            f"run chmod go-w {path}"
        )


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
            file.write(_KeyFile(keys=keys).model_dump_json(indent=1).encode() + b"\n")
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
