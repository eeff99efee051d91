"""The file of API keys, which a running service reads. `service.key_changes` writes it.

A key is 256 random bits, so it cannot be guessed and an unsalted sha256 is safe to store. Slow,
salted hashes protect passwords, which people choose and reuse.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store.files import UnexpectedFileError, open_regular, read_open_file
from model_store.names import Name
from model_store.validation import describe_validation_error

Scope = Literal["predict", "manage", "metrics"]
SCOPES: Final[tuple[Scope, ...]] = ("predict", "manage", "metrics")
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
MAX_FILE_BYTES: Final = 1024 * 1024


class ApiKeysError(Exception):
    """The file of API keys cannot be read or changed."""


class ApiKeysUnreadableError(ApiKeysError):
    """The file could not be read this time; its content may be valid."""


class PreviousSecret(BaseModel):
    """The secret that a rotation replaced."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Sha256
    expires_at: AwareDatetime


class ApiKey(BaseModel):
    """A stored key: everything except the secret itself.

    Attributes:
        name: Who uses the key.
        scopes: What it may do.
        sha256: Hash of its secret.
        created_at: When it was added.
        expires_at: When it stops working; None if never.
        requests_per_second: Most requests per second, on average; None if there is no limit.
        previous: The secret before the last rotation, which also works until it expires.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Sha256
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    requests_per_second: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    previous: PreviousSecret | None = None


class KeyFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


def default_key_file() -> Path:
    """`keys.json` in `$XDG_CONFIG_HOME/resident`, or in `~/.config/resident`."""
    home = os.path.expanduser("~")  # noqa: PTH111  Path raises without a home
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")  # noqa: PTH118
    return Path(config) / "resident" / "keys.json"


def hash_secret(secret: str) -> str:
    """The sha256 of a key's secret in hex, as the file stores it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def last_used_directory(path: Path) -> Path:
    """The directory beside a key file. It has an empty file per key, whose time is the last use."""
    return path.with_name(f"{path.name}.used")


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
        return KeyFile.model_validate_json(data).keys, status
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise ApiKeysError(f"cannot read API keys from {path}: {reason}") from None


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
