"""Versions that drain and close."""

import os
import platform
import subprocess
import sys
import threading

import pytest
from colour_model import MODEL, publish
from registries import is_closed, options
from server_process import PATIENCE_SECONDS, REPOSITORY

from model_store.store import ModelStore
from service.engine.loaded_version import LoadedVersion
from service.versions.draining import DrainingVersions


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can return memory on request"
)
def test_memory_is_returned_when_a_version_closes(colour_store: ModelStore) -> None:
    """64 MB of free heap are returned after a version has closed, not before."""
    code = """if True:
        import sys
        from pathlib import Path
        from model_store.session import SessionOptions
        from model_store.store import ModelStore
        from service.host.malloc import bound_malloc
        from service.engine.loaded_version import LoadedVersion
        from service.engine.options import EngineOptions
        from service.versions.draining import DrainingVersions

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

        bound_malloc()
        version = ModelStore(Path(sys.argv[1]), builtin_root=None).open(sys.argv[2], 1)
        served = LoadedVersion(version, EngineOptions(SessionOptions(), max_batch_size=1))
        pieces = [b"x" * (64_000 + number) for number in range(1000)]
        last, pieces = pieces[-1], None
        draining = DrainingVersions()
        assert served.take_lease()
        draining.drain(served)
        moments = [resident()]
        draining.trim()
        moments.append(resident())
        served.return_lease()
        draining.join()
        draining.trim()
        moments.append(resident())
        print(*moments)
    """
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    arguments = [sys.executable, "-c", code, str(colour_store.root), MODEL]
    done = subprocess.run(
        arguments,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    )
    full, leased, gone = map(int, done.stdout.split())
    assert full - leased < 10_000_000
    assert leased - gone > 30_000_000


@pytest.mark.parametrize("trims", [0, 1])
def test_version_drains_later_if_no_thread_can_start(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, trims: int
) -> None:
    """It is closed as soon as the host has threads again, and at the latest at shutdown."""
    first = LoadedVersion(store.open(MODEL, publish(store)), options(MODEL))

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    draining = DrainingVersions()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        draining.drain(first)
    assert draining.numbers(MODEL) == [1]
    assert first.version._lock._descriptor >= 0  # still open
    for _ in range(trims):
        draining.trim()
    draining.join()
    assert is_closed(first)
