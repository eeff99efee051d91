"""ApiKeys: who may predict and who may manage, kept as hashes in one file that people change while the service runs.

A key is 256 random bits, so nobody finds it by guessing and its plain sha256 is all that must be kept: a slow, salted hash is for
passwords, which people choose and repeat.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from model_store.files import DirectoryLock, open_atomically
from model_store.manifest import now
from model_store.names import Name
from service.errors import ForbiddenError, UnauthorizedError

Scope = Literal["predict", "manage"]
KEY_BYTES: Final = 32
PREFIX: Final = "resident_"
"""So that a scanner for secrets finds a key that was committed by mistake."""
MAX_FILE_BYTES: Final = 1024 * 1024
logger = logging.getLogger(__name__)


class ApiKeysError(Exception):
    """The file of keys can not be read or changed."""


class KeyNameError(ApiKeysError):
    """A name that is taken, or that no key has."""


class ApiKey(BaseModel):
    """A key as it is kept: all but the key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created_at: AwareDatetime


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    keys: tuple[ApiKey, ...] = ()


def default_path() -> Path:
    """`keys.json` in `$XDG_CONFIG_HOME/resident`, or in `~/.config/resident`."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118  Path raises
    return Path(config) / "resident" / "keys.json"


def read_keys(path: Path, *, by_hand: bool = False) -> tuple[ApiKey, ...]:
    """The keys of a file; none where there is no file. Raises ApiKeysError, also where another user could have written it.

    For a command, `by_hand`, root may look at another user's keys: it lets no one in by them.
    """
    return _read(path, by_hand=by_hand)[0]


def _read(path: Path, *, by_hand: bool) -> tuple[tuple[ApiKey, ...], os.stat_result | None]:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(MAX_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return (), None
    except OSError as error:
        raise ApiKeysError(f"the keys in {path} can not be read: {error.strerror}") from None
    user = os.geteuid()
    if found.st_uid not in {user, 0} and not (by_hand and user == 0):
        raise ApiKeysError(
            f"the keys in {path} can not be trusted: the file belongs to another user, so chown it"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ApiKeysError(
            f"the keys in {path} can not be trusted: others can write to the file, so chmod go-w it"
        )
    if len(data) > MAX_FILE_BYTES:
        raise ApiKeysError(
            f"the keys in {path} can not be read: the file is larger than {MAX_FILE_BYTES:,} bytes"
        )
    try:
        return _File.model_validate_json(data).keys, found
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "JSON"
        raise ApiKeysError(f"the keys in {path} can not be read: {place}: {first['msg']}") from None


def add_key(path: Path, name: str, scopes: Sequence[Scope]) -> str:
    """Make a key and return it: nothing but its hash is kept. Raises ApiKeysError, KeyNameError where the name is taken."""
    with _changing(path) as (keys, found):
        if any(key.name == name for key in keys):
            raise KeyNameError(
                f"there is a key named {name} already: add the new key under another name, then remove this one"
            )
        secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
        key = ApiKey(
            name=name, scopes=tuple(sorted(set(scopes))), sha256=_hash(secret), created_at=now()
        )
        _write(path, (*keys, key), found)
    return secret


def remove_key(path: Path, name: str) -> bool:
    """Take a key's rights away, and return whether everyone may predict by that.

    Raises ApiKeysError, KeyNameError where there is none of that name.
    """
    with _changing(path) as (keys, found):
        left = tuple(key for key in keys if key.name != name)
        if left == keys:
            raise KeyNameError(
                f"there is no key named {name}; there are {', '.join(key.name for key in keys) or 'none'}"
            )
        _write(path, left, found)
    return "predict" in _scopes(keys) - _scopes(left)


class ApiKeys:
    """The keys as they are now: the file is read again when it has changed.

    A file that was there and is gone or damaged changes nothing, so that a slip of an editor neither opens the service nor shuts
    it; it is logged.
    """

    def __init__(self, path: Path) -> None:
        """Log whom the keys let in. Raises ApiKeysError."""
        self._path = path
        self._stamp = _stamp(path)
        self._looked = False
        self._use(read_keys(path))

    def check(self, authorization: str | None, scope: Scope) -> str | None:
        """The name of the key in an `Authorization` header that may do this.

        Where no key has the scope `predict` everyone may predict, and None is returned. Raises UnauthorizedError, ForbiddenError.
        """
        self._renew()
        if scope not in self._scopes:
            if scope == "predict":
                return None
            raise ForbiddenError(
                "no key may manage this service yet: python -m service keys add NAME --scope manage makes one",
                code="management_disabled",
            )
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise UnauthorizedError(
                "a key is needed: send Authorization: Bearer KEY", headers=_challenge()
            )
        given, found = _hash(secret.strip()), None
        for key in self._keys:  # all of them, each in the same time whatever it differs in
            if hmac.compare_digest(given, key.sha256):
                found = key
        if found is None:
            raise UnauthorizedError("this key is not known", headers=_challenge("invalid_token"))
        if scope not in found.scopes:
            detail = f"the key {found.name} has not the scope {scope}"
            raise ForbiddenError(detail, headers=_challenge("insufficient_scope"))
        return found.name

    def _use(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys
        self._scopes = _scopes(keys)
        may = {scope: sum(scope in key.scopes for key in keys) for scope in ("predict", "manage")}
        logger.info(
            "keys that count: %d; %s may predict, %s may manage",
            len(keys),
            may["predict"] or "everyone",
            may["manage"] or "nobody",
        )

    def _renew(self) -> None:
        if self._looked:
            return
        with suppress(
            RuntimeError
        ):  # one look a turn of the event loop: one for every small image would take 5 % of its time
            asyncio.get_running_loop().call_soon(self._end_turn)
            self._looked = True
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            keys, found = _read(self._path, by_hand=False)
        except ApiKeysError as error:
            logger.error("%s; those that were read before count on", error)  # noqa: TRY400  a person reads it
            return
        if found is None:
            logger.error(
                "the file of keys is gone; those that it held count until there is one again, or a restart"
            )
        else:
            self._use(keys)

    def _end_turn(self) -> None:
        self._looked = False


@contextmanager
def _changing(path: Path) -> Iterator[tuple[tuple[ApiKey, ...], os.stat_result | None]]:
    """The keys of a file, which no other process changes meanwhile, and whose it is."""
    if path.parts[:1] == ("~",):
        raise ApiKeysError(
            "there is no home directory to keep keys in: name a file by --keys or SERVICE_KEYS"
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(path.parent, exclusive=True)
    except BlockingIOError:
        raise ApiKeysError("another process is changing the keys: try again") from None
    except OSError as error:
        raise ApiKeysError(f"the keys in {path} can not be changed: {error.strerror}") from None
    try:
        yield _read(path, by_hand=True)
    finally:
        lock.release()


def _write(path: Path, keys: tuple[ApiKey, ...], before: os.stat_result | None) -> None:
    """Replace the file in one step: owner, group and mode stay; a new one is readable by the owner of its directory alone."""
    try:
        with open_atomically(path, mode=0o600) as file:
            file.write(_File(keys=keys).model_dump_json(indent=1).encode() + b"\n")
            _make_alike(file.fileno(), path, before)
    except OSError as error:
        raise ApiKeysError(f"the keys in {path} cannot be written: {error.strerror}") from None


def _make_alike(descriptor: int, path: Path, before: os.stat_result | None) -> None:
    own = os.fstat(descriptor)
    owner = before or (
        path.parent.stat() if os.geteuid() == 0 else own
    )  # root makes it for the user whose directory it is
    if (owner.st_uid, owner.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except PermissionError:
            raise ApiKeysError(
                f"the keys in {path} would get another owner or group by this: change them as root"
            ) from None
    if before:
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & 0o777)


def _scopes(keys: Sequence[ApiKey]) -> frozenset[Scope]:
    return frozenset(scope for key in keys for scope in key.scopes)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Another for each change of the file, of its mode too."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _challenge(error: str | None = None) -> dict[str, str]:
    """RFC 6750: what a client is told to send."""
    return {"WWW-Authenticate": 'Bearer realm="resident"' + (f', error="{error}"' if error else "")}
