"""Why a version cannot serve, and whether the version or the host is at fault."""

import re
from dataclasses import dataclass
from typing import Final

from model_store.errors import ModelStoreError, StoreUnreadableError
from model_store.names import printable

_OUT_OF_MEMORY: Final = re.compile(
    "bad_alloc|bad allocation|Cannot allocate memory|Failed to allocate memory"
)
_SHORTAGES: Final = re.compile(
    "can't start new thread|pthread_create|Resource temporarily unavailable|Too many open files"
)
"""Messages of Python and ONNX Runtime if the host is short of threads or files."""


@dataclass(frozen=True)
class LoadFailure:
    """Why a version cannot serve, in words for clients."""

    reason: str
    transient: bool = False
    """The host or the disk caused the failure, not the version, so loading is retried."""


def explain(error: BaseException) -> LoadFailure:
    """Why loading a version raised this error."""
    if is_out_of_memory(error) or any(_SHORTAGES.search(str(cause)) for cause in _causes(error)):
        return LoadFailure(
            "this replica is short of threads, memory or file descriptors; it is tried again",
            transient=True,
        )
    if isinstance(error, StoreUnreadableError | OSError):
        return LoadFailure("it cannot be read", transient=True)
    if isinstance(error, ModelStoreError):
        return LoadFailure(printable(str(error)))
    return LoadFailure(
        f"it cannot be loaded ({type(error).__name__}); the server's log has details"
    )


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
