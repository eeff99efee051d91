"""Why a version cannot serve, and whether the version or the host is at fault."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.names import printable

_OUT_OF_MEMORY: Final = re.compile(
    "bad_alloc|bad allocation|Cannot allocate memory|Failed to allocate memory"
)
_SHORTAGES: Final = re.compile(
    "can't start new thread|pthread_create|Resource temporarily unavailable|Too many open files"
)
"""Messages of Python and ONNX Runtime if the host is short of threads or files."""
Cause = Literal["version", "crash", "memory", "overload", "shortage", "host"]
RETRY_SECONDS: Final = 10.0
"""Time until loading is tried again if the host is at fault."""


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot serve.

    Attributes:
        reason: An explanation for clients.
        cause: `version` if it is damaged or fails its proof, and `crash` if it ended the process
            that loaded it. `memory` if it needs more than the limit. `overload` if the process was
            too slow, or killed from outside. `shortage` if it got no thread, file or memory. `host`
            if the version cannot be read or no process can be started.
        memory_bytes: The limit that was too small, if the cause is `memory`.
        retry_seconds: Time until it is worth trying again, 0 for the next reconciliation; None if
            only a promotion, another setting or a new version can help.
        details: Details for the log.
        is_logged: Whether another worker of the service has logged it.
    """

    reason: str
    cause: Cause = "version"
    memory_bytes: int | None = None
    retry_seconds: float | None = None
    details: str = ""
    is_logged: bool = False

    @property
    def is_fault_of_host(self) -> bool:
        """Whether the failure says nothing about the version."""
        return self.cause in {"shortage", "host"}


def explain(error: BaseException) -> LoadFailure:
    """Why loading a version raised this error."""
    if is_out_of_memory(error) or any(_SHORTAGES.search(str(cause)) for cause in _causes(error)):
        return LoadFailure(
            "this replica is short of threads, memory or file descriptors",
            "shortage",
            retry_seconds=0.0,
            details=str(error),
        )
    if isinstance(error, StoreUnreadableError | OSError):
        return LoadFailure("it cannot be read", "host", retry_seconds=0.0, details=str(error))
    if isinstance(error, ModelStoreError):
        return LoadFailure(printable(str(error)))
    reason = f"it cannot be loaded ({type(error).__name__}); the server's log has details"
    return LoadFailure(reason, details=str(error))


def is_out_of_memory(error: BaseException) -> bool:
    return any(
        isinstance(cause, MemoryError) or _OUT_OF_MEMORY.search(str(cause))
        for cause in _causes(error)
    )


def _causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    return causes
