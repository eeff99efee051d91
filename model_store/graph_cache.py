"""Cache of graphs that ONNX Runtime has optimised, so that later starts are faster.

An entry is a directory named by its key: the graph, a file of weights that is memory-mapped, and a
seal with the sha256 of both. Processes share it, and it may be deleted at any time. It is not part
of the store, because an optimised graph is valid only for the same kind of CPU.
"""

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from pydantic import Field, ValidationError

from model_store.files import sha256_of
from model_store.host_cache import (
    BUILDING_PREFIX,
    build_entry,
    mark_used,
    open_host_cache,
    prune_entries,
    remove_entry,
)
from model_store.manifest import FileEntry
from model_store.validation import FrozenModel

FOLDER: Final = "graphs"
GRAPH: Final = "model.onnx"
WEIGHTS: Final = "model.bin"
SEAL: Final = "entry.json"
MIN_EXTERNAL_BYTES: Final = 1024
_FORMAT: Final = 3  # in format 2, each number of threads had its own entry
NewSettings = Callable[[], onnxruntime.SessionOptions]
OpenModel = Callable[[], AbstractContextManager[Path]]
logger = logging.getLogger(__name__)


class GraphSeal(FrozenModel):
    """The files of an entry when they were written."""

    files: tuple[FileEntry, ...] = Field(description="Every file but the seal itself.")


class GraphCache:
    """Creates CPU sessions from cached graphs. The cache does not change outputs by a single bit.

    A damaged entry is deleted and built again. If the cache cannot be used, a warning is logged
    once and sessions are created without it. Graphs larger than `max_bytes` are not cached.

    Args:
        root: The host's cache directory.
        max_bytes: Limit for all entries; the least recently used are deleted first.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._reported: set[str] = set()
        self._too_large: set[str] = set()

    def open(
        self, open_model: OpenModel, digest: str, new_settings: NewSettings
    ) -> onnxruntime.InferenceSession:
        """Create a session.

        Args:
            open_model: Yields the path of the ONNX file. Called only if it is not cached.
            digest: Identifies its content, in hex.
            new_settings: Returns new session options at each call.

        Raises:
            Exception: ONNX Runtime cannot load the file. Its exceptions share no base class.
        """
        try:
            folder = open_host_cache(self._root, FOLDER)
            key = key_of(digest)
            if key not in self._too_large:
                return self._open_entry(folder / key, new_settings) or self._build(
                    folder / key, open_model, new_settings
                )
        except Exception as error:  # noqa: BLE001  a broken cache must not stop the model
            with open_model() as path:
                session = _create(path, new_settings())  # raises if the model itself is damaged
            self._report(path, _short_reason(error))
            return session
        with open_model() as path:
            return _create(path, new_settings())

    def _open_entry(
        self, entry: Path, new_settings: NewSettings
    ) -> onnxruntime.InferenceSession | None:
        """A session of an entry; a damaged entry is deleted, and the result is None."""
        if not entry.exists():
            return None
        try:
            seal = GraphSeal.model_validate_json((entry / SEAL).read_bytes())
            sealed = {file.path: file.sha256 for file in seal.files}
            if sealed != {
                path.name: sha256_of(path) for path in entry.iterdir() if path.name != SEAL
            }:
                raise ValueError("its files have changed")
            mark_used(entry / SEAL)
            return _reopen(entry / GRAPH, new_settings)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions share no base class
            logger.warning(
                "the cached graph %s is damaged and is built again: %s",
                entry.name[:12],
                _short_reason(error),
            )
            remove_entry(entry)
            return None

    def _build(
        self, entry: Path, open_model: OpenModel, new_settings: NewSettings
    ) -> onnxruntime.InferenceSession:
        """Optimise, write and reload the graph; keep it if its outputs are unchanged.

        If another process has written the same entry meanwhile, use that one, so that both share
        its memory.
        """
        with build_entry(entry) as building:
            settings = new_settings()
            settings.optimized_model_filepath = str(building / GRAPH)
            settings.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", WEIGHTS
            )
            settings.add_session_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes",
                str(MIN_EXTERNAL_BYTES),
            )
            # Prepacked weights are not written: ONNX Runtime 1.24 and 1.31 crash on them.
            with open_model() as path:
                # The optimised graph is at least as large as the model.
                self._check_size(entry, path.stat().st_size)
                original = _create(path, settings)
            session = _reopen(building / GRAPH, new_settings)
            _check_identical(original, session)
            self._check_size(entry, _seal(building))
            built = (building / GRAPH).stat()
        prune_entries(entry.parent, self._max_bytes, keep=entry)
        with suppress(OSError):  # another process has deleted it
            if not os.path.samestat(built, (entry / GRAPH).stat()):
                return self._open_entry(entry, new_settings) or session
        return session

    def _check_size(self, entry: Path, size: int) -> None:
        """Raise ValueError for a graph over the limit, and remember not to try it again."""
        if size > self._max_bytes:
            self._too_large.add(entry.name)
            raise ValueError(
                f"its optimised graph has {size} bytes, more than the limit of {self._max_bytes}"
            )

    def _report(self, path: Path, reason: str) -> None:
        if reason not in self._reported:
            self._reported.add(reason)
            logger.warning(
                "%s was loaded without the graph cache in %s: %s",
                path.name,
                self._root,
                reason,
            )


def key_of(digest: str) -> str:
    """The name of an entry: the sha256 of everything that an optimised graph depends on.

    It does not depend on the threads of the session, so sessions with different numbers share the
    mapped weights.

    Args:
        digest: sha256 of the model file, in hex.
    """
    parts = [
        _FORMAT,
        digest,
        onnxruntime.__version__,
        onnxruntime.get_build_info(),
        cpu_description(),
        ["CPUExecutionProvider"],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cpu_description(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name and flags of the processor; without `/proc/cpuinfo`, what Python knows about it."""
    try:
        first = cpuinfo.read_text().split("\n\n", 1)[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in first.splitlines())
    }
    return json.dumps(
        [
            platform.machine(),
            *(fields.get(key, "") for key in ("model name", "flags", "Features", "CPU part")),
        ]
    )


def _create(path: Path, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def _reopen(graph: Path, new_settings: NewSettings) -> onnxruntime.InferenceSession:
    settings = new_settings()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _create(graph, settings)


def _check_identical(
    one: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession
) -> None:
    """Compare the outputs for noise. Raises ValueError if one bit differs."""
    entry = one.get_inputs()[0]
    noise = np.random.default_rng(0).integers(0, 256, (2, *entry.shape[1:]), np.uint8)
    for left, right in zip(
        one.run(None, {entry.name: noise}), other.run(None, {entry.name: noise}), strict=True
    ):
        if left.shape != right.shape or left.tobytes() != right.tobytes():
            raise ValueError(
                "the optimised graph gives other outputs after it was written and read"
            )


def _seal(building: Path) -> int:
    """Write the seal and return the size of all files.

    Nothing is synced: a file that a crash left incomplete does not match its sha256.
    """
    files = [path for path in sorted(building.iterdir()) if path.is_file()]
    entries = tuple(
        FileEntry(path=path.name, size=path.stat().st_size, sha256=sha256_of(path))
        for path in files
    )
    (building / SEAL).write_text(GraphSeal(files=entries).model_dump_json())
    return sum(path.stat().st_size for path in building.iterdir())


def _short_reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "its seal is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which differs each time
    return re.sub(
        rf"{re.escape(BUILDING_PREFIX)}[0-9a-f]+",
        f"{BUILDING_PREFIX}…",
        str(error).split("\n", 1)[0],
    )[:300]
