"""Processes for tests of the store: concurrent ones, and ones killed at a file operation."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from store_factory import publish_plain

from model_store.store import ModelStore
from model_store.version import Version

_CONTEXT = multiprocessing.get_context("spawn")  # onnxruntime's threads do not survive a fork
_PATIENCE_SECONDS = 120
_NOBODY = 65534
_FILE_MODULES = frozenset(
    {"posix", "io", "_io", "fcntl"}
)  # the module of open() is "io" up to Python 3.11
_PURE = frozenset({"_path_normpath", "fileno", "fspath", "getpid", "getuid", "urandom"})


class Workers:
    """Processes that each call a function when told; all wait for the last one before they do."""

    def __init__(self, count: int) -> None:
        self._barrier = _CONTEXT.Barrier(count)  # kept: its semaphores go with it
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(count):
            here, there = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_work, args=(there, self._barrier), daemon=True)
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], arguments: Iterable[Sequence[Any]]) -> list[Any]:
        """Call `function` in every worker at the same moment; raises what one of them raised."""
        for connection, own in zip(self._connections, arguments, strict=True):
            connection.send((function, own))
        answers = [connection.recv() for connection in self._connections]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()  # a worker that finds its pipe closed ends
        for process in self._processes:
            process.join()
            process.close()


def _work(connection: Connection, barrier: Barrier) -> None:
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            barrier.wait(_PATIENCE_SECONDS)
            connection.send(function(*arguments))
        except Exception as error:  # noqa: BLE001  the test's process shall see it, whatever it is
            connection.send(error)


# What workers do. These must be importable by name, so they can not lie in the tests.


def publish(root: Path, model: str) -> int:
    return publish_plain(ModelStore(root, builtin_root=None), model)


def promote(root: Path, model: str, version: int, why: str) -> None:
    ModelStore(root, builtin_root=None).promote(model, version, why=why)


def promote_often(root: Path, model: str, versions: Sequence[int], mover: str) -> None:
    for step, version in enumerate(versions):
        promote(root, model, version, f"{mover}, step {step}")


def prune(root: Path, model: str, keep: int) -> None:
    ModelStore(root, builtin_root=None).prune(model, keep)


_opened: list[Version] = []


def open_and_keep(root: Path, model: str, version: int) -> None:
    _opened.append(ModelStore(root, builtin_root=None).open(model, version))


def close_all() -> None:
    while _opened:
        _opened.pop().close()


def become_nobody() -> None:
    """Give up root's right to read everything."""
    if os.getuid() == 0:
        os.setuid(_NOBODY)


def call_store(root: Path, method: str, *arguments: Any) -> Any:
    return getattr(ModelStore(root, builtin_root=None), method)(*arguments)


def read_alias(root: Path, model: str, alias: str) -> int | None:
    return ModelStore(root, builtin_root=None).aliases(model).version(alias)


# Runs inside a worker: it has one thread, so it can fork.


def file_operations(
    function: Callable[..., Any], arguments: Sequence[Any], warm_up: Sequence[Any]
) -> list[str]:
    """The file operations that a call does, after a first call that has done all late imports."""
    function(*warm_up)
    operations: list[str] = []
    _watched(function, arguments, operations.append)
    return operations


def kill_before(operation: int, function: Callable[..., Any], arguments: Sequence[Any]) -> bool:
    """Run the call in a fork that kills itself before this file operation; True if it died so."""
    child = os.fork()
    if child == 0:
        try:
            countdown = iter(range(operation, -1, -1))

            def count(_: str) -> None:
                if next(countdown) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

            _watched(function, arguments, count)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _watched(
    function: Callable[..., Any], arguments: Sequence[Any], see: Callable[[str], None]
) -> None:
    """Call `function` and report every C function that touches files, before it runs."""

    def profile(_: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            module = called.__module__ or type(called.__self__).__module__
            if module in _FILE_MODULES and called.__name__ not in _PURE:
                see(called.__name__)

    sys.setprofile(profile)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
