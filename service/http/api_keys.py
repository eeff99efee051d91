"""Check by API key what a request may do."""

import asyncio
import hmac
import logging
import os
import shlex
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from starlette.requests import Request

from service.errors import ForbiddenError, UnauthorizedError
from service.http.key_usage import LastUsed
from service.http.rate_limit import RateLimit
from service.key_file import (
    SCOPES,
    ApiKey,
    ApiKeysError,
    ApiKeysUnreadableError,
    Scope,
    hash_secret,
    last_used_directory,
    read_key_file,
    scopes_of,
)
from service.log_on_change import LogOnChange

logger = logging.getLogger(__name__)


class ApiKeys:
    """The keys of a file, which is read again whenever it changes.

    If the file is deleted or damaged, the keys that were read last stay in use. A mistake in an
    editor neither opens the service to everyone nor locks everyone out.
    """

    def __init__(
        self,
        path: Path,
        *,
        required: bool = False,
        new_limit: Callable[[float, str], RateLimit] = lambda rate, _: RateLimit(rate),
    ) -> None:
        """Read the file.

        Args:
            path: The file. If it is missing, everyone may predict.
            required: Whether the file must exist.
            new_limit: Creates the limit of a key, given its requests per second and its name.

        Raises:
            ApiKeysError: The file cannot be read, or it is required and missing.
        """
        self._path = path
        self._limits: dict[str, RateLimit] = {}
        self._new_limit = new_limit
        self.last_used = LastUsed(last_used_directory(path))
        self._problems = LogOnChange(logger)
        self._stamp = _file_stamp(path)
        self._checked_in_this_iteration = False
        keys, status = read_key_file(path, trust_any_owner=False)
        if required and status is None:
            raise ApiKeysError(
                f"there is no file {path}, so everyone could predict; create it with: "
                f"python -m service keys --keys {shlex.quote(str(path))} add NAME --scope predict "
                "(or set SERVICE_KEYS to an empty value to start without API keys)"
            )
        self._use(keys)

    def check(self, authorization: str | None, scope: Scope) -> str | None:
        """Check the `Authorization` header of a request.

        Returns:
            The name of the key, or None if no key is needed. `predict` and `metrics` need none
            while no key has this scope. Expired keys count, so that nothing opens by itself.

        Raises:
            UnauthorizedError: There is no key, or it is unknown or expired.
            ForbiddenError: The key lacks the scope, or no key has the scope `manage`.
            OverloadedError: The key's limit of requests per second is reached.
        """
        self._reload_if_changed()
        if scope not in self._scopes:
            if scope != "manage":
                return None
            raise ForbiddenError(
                "management is disabled: no API key has the scope manage; create one with "
                "python -m service keys add NAME --scope manage",
                code="management_disabled",
            )
        kind, _, secret = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise UnauthorizedError(
                "an API key is required: send the header Authorization: Bearer KEY",
                headers=_challenge(),
            )
        key = self._find(secret.strip())
        if scope not in key.scopes:
            raise ForbiddenError(
                f"the API key {key.name} does not have the scope {scope}",
                headers=_challenge("insufficient_scope"),
            )
        if limit := self._limits.get(key.name):
            limit.check(f"the API key {key.name}")
        self.last_used.record(key.name)
        return key.name

    def require(self, scope: Scope) -> Callable[[Request], Awaitable[None]]:
        """Return a dependency for routes of FastAPI that checks this scope."""

        async def check(request: Request) -> None:
            self.check(request.headers.get("authorization"), scope)

        return check

    def are_needed(self, scope: Scope) -> bool:
        """Whether the keys that were read last require one for this scope."""
        return scope in self._scopes

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        return self._keys

    def _find(self, secret: str) -> ApiKey:
        digest, found = hash_secret(secret), None
        for stored in self._secrets:  # all in constant time, so that timing reveals nothing
            if hmac.compare_digest(digest, stored[0]):
                found = stored
        if found is None:
            raise UnauthorizedError("unknown API key", headers=_challenge("invalid_token"))
        _, key, expires_at = found
        if expires_at and expires_at.timestamp() <= time.time():
            raise UnauthorizedError(
                f"this secret of the API key {key.name} expired at {expires_at:%Y-%m-%d %H:%M} "
                f"UTC; get a new one: python -m service keys rotate {key.name}",
                headers=_challenge("invalid_token"),
            )
        return key

    def _use(self, keys: tuple[ApiKey, ...]) -> None:
        self._keys = keys
        self._scopes = scopes_of(keys)
        self._secrets = [(key.sha256, key, key.expires_at) for key in keys]
        self._secrets += [
            (key.previous.sha256, key, key.previous.expires_at) for key in keys if key.previous
        ]
        self._limits = {
            key.name: self._limit(key, key.requests_per_second)
            for key in keys
            if key.requests_per_second
        }
        counts = {scope: sum(scope in key.scopes for key in keys) for scope in SCOPES}
        logger.info(
            "API keys loaded keys=%d predict=%s manage=%s metrics=%s",
            len(keys),
            counts["predict"] or "everyone",
            counts["manage"] or "nobody",
            counts["metrics"] or "everyone",
        )

    def _limit(self, key: ApiKey, requests_per_second: float) -> RateLimit:
        """Keep the limit of a key that other changes of the file do not concern."""
        limit = self._limits.get(key.name)
        if limit and limit.requests_per_second == requests_per_second:
            return limit
        return self._new_limit(requests_per_second, key.name)

    def _reload_if_changed(self) -> None:
        if self._checked_in_this_iteration:
            return
        # Once per iteration of the event loop: a check per small image would cost 5 % of its time.
        try:
            asyncio.get_running_loop().call_soon(self._end_iteration)
        except RuntimeError:
            pass  # no event loop runs
        else:
            self._checked_in_this_iteration = True
        stamp = _file_stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            keys, status = read_key_file(self._path, trust_any_owner=False)
            if status is None:
                raise ApiKeysError(f"the file {self._path} is gone")
        except ApiKeysError as error:
            # Unreadable: keep the old stamp, so that the next check tries again. The change may
            # revoke the key of a client that has used up the process's file descriptors.
            if not isinstance(error, ApiKeysUnreadableError):
                self._stamp = stamp
            self._problems.report("keys", f"API keys not reloaded reason={str(error)!r}")
        else:
            self._stamp = stamp
            self._problems.clear("keys")
            self._use(keys)

    def _end_iteration(self) -> None:
        self._checked_in_this_iteration = False


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a value that differs after every change of the file or of its mode."""
    try:
        status = os.stat(path)  # noqa: PTH116  half as long as Path.stat
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _challenge(error: str | None = None) -> dict[str, str]:
    """The `WWW-Authenticate` header (RFC 6750, section 3)."""
    return {"WWW-Authenticate": 'Bearer realm="resident"' + (f', error="{error}"' if error else "")}
