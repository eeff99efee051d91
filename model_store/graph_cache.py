"""The graphs that ONNX Runtime has optimised on this host, so that it need not do so at every start.

An entry is a directory named by its key: the graph, its weights in a file that is mapped instead of read, and a seal with the
digests of both. It is the same for every process of this host, may be deleted at any time, and never lies in the store: a graph
optimised here is only right for CPUs like this one.
"""

import hashlib
import json
import logging
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime
from pydantic import ValidationError

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
LEAST_EXTERNAL_BYTES: Final = 1024
_FORMAT: Final = 1
NewSettings = Callable[[], onnxruntime.SessionOptions]
logger = logging.getLogger(__name__)


class Seal(FrozenModel):
    """What an entry's files were when they were written."""

    files: tuple[FileEntry, ...]


class GraphCache:
    """Sessions on the CPU, from this host's cache where it can be: what they answer is bitwise the same with and without it.

    A damaged entry is thrown away and made anew. Where the cache can not be used at all this is said once, and sessions are made
    without it; so are those of graphs larger than `max_bytes`. Beyond `max_bytes` the entry that was used longest ago goes first.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._reported: set[str] = set()
        self._too_large: set[str] = set()

    def open(
        self, path: Path, digest: str, new_settings: NewSettings
    ) -> onnxruntime.InferenceSession:
        """A session of the model file at `path`, whose sha256 is `digest`. Raises what ONNX Runtime raises for a bad file."""
        try:
            folder = open_host_cache(self._root, FOLDER)
            key = key_of(digest, new_settings())
            if key not in self._too_large:
                return self._find(folder / key, new_settings) or self._build(
                    folder / key, path, new_settings
                )
        except Exception as error:  # noqa: BLE001  whatever is wrong with the cache, the model serves without it
            session = _create(path, new_settings())  # raises where the model is at fault
            self._report(path, _one_line(error))
            return session
        return _create(path, new_settings())

    def _find(self, entry: Path, new_settings: NewSettings) -> onnxruntime.InferenceSession | None:
        """The session of an intact entry. One that is damaged, or that ONNX Runtime does not take, is deleted."""
        if not entry.exists():
            return None
        try:
            seal = Seal.model_validate_json((entry / SEAL).read_bytes())
            sealed = {file.path: file.sha256 for file in seal.files}
            if sealed != {
                path.name: sha256_of(path) for path in entry.iterdir() if path.name != SEAL
            }:
                raise ValueError("its files are not those that were written")
            mark_used(entry / SEAL)
            return _reopen(entry / GRAPH, new_settings)
        except Exception as error:  # noqa: BLE001  ONNX Runtime's own exceptions share no public base class
            logger.warning(
                "the optimised graph %s is damaged and is made anew: %s",
                entry.name[:12],
                _one_line(error),
            )
            remove_entry(entry)
            return None

    def _build(
        self, entry: Path, path: Path, new_settings: NewSettings
    ) -> onnxruntime.InferenceSession:
        """Optimise, write, load what was written, and keep it where both answer alike, bit for bit."""
        self._check_size(entry, path.stat().st_size)  # before the work: its weights are in both
        with build_entry(entry) as building:
            settings = new_settings()
            settings.optimized_model_filepath = str(building / GRAPH)
            settings.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", WEIGHTS
            )
            settings.add_session_config_entry(
                "session.optimized_model_external_initializers_min_size_in_bytes",
                str(LEAST_EXTERNAL_BYTES),
            )
            # Prepacked weights are not written: ONNX Runtime 1.24 and 1.31 crash on them.
            plain = _create(path, settings)
            session = _reopen(building / GRAPH, new_settings)
            _check_alike(plain, session)
            self._check_size(entry, _seal(building))
        prune_entries(entry.parent, self._max_bytes, keep=entry)
        return session

    def _check_size(self, entry: Path, size: int) -> None:
        """Raises ValueError for what is larger than the whole cache may be, and has this process not try it again."""
        if size > self._max_bytes:
            self._too_large.add(entry.name)
            raise ValueError(
                f"its optimised graph takes {size} bytes, allowed are {self._max_bytes}"
            )

    def _report(self, path: Path, reason: str) -> None:
        if reason not in self._reported:
            self._reported.add(reason)
            logger.warning(
                "%s was loaded without the cache of optimised graphs in %s: %s",
                path.name,
                self._root,
                reason,
            )


def key_of(digest: str, settings: onnxruntime.SessionOptions) -> str:
    """The name of an entry: everything that an optimised graph depends on, in one sha256."""
    spinning = settings.get_session_config_entry("session.intra_op.allow_spinning")
    parts = [
        _FORMAT,
        digest,
        onnxruntime.__version__,
        onnxruntime.get_build_info(),
        cpu_description(),
        ["CPUExecutionProvider"],
        settings.intra_op_num_threads,
        settings.inter_op_num_threads,
        spinning,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def cpu_description(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and flags; where the system does not list them, what Python knows of it."""
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


def _check_alike(one: onnxruntime.InferenceSession, other: onnxruntime.InferenceSession) -> None:
    """Hold both against each other on noise. Raises ValueError where one bit differs."""
    entry = one.get_inputs()[0]
    noise = np.random.default_rng(0).integers(0, 256, (2, *entry.shape[1:]), np.uint8)
    for left, right in zip(
        one.run(None, {entry.name: noise}), other.run(None, {entry.name: noise}), strict=True
    ):
        if left.shape != right.shape or left.tobytes() != right.tobytes():
            raise ValueError("the optimised graph answers otherwise once it was written and read")


def _seal(building: Path) -> int:
    """Write the seal and return the bytes of all files. Nothing is synced: what a crash tears does not match its digest."""
    files = [path for path in sorted(building.iterdir()) if path.is_file()]
    entries = tuple(
        FileEntry(path=path.name, size=path.stat().st_size, sha256=sha256_of(path))
        for path in files
    )
    (building / SEAL).write_text(Seal(files=entries).model_dump_json())
    return sum(path.stat().st_size for path in building.iterdir())


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "its seal can not be read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, of which each has another
    return re.sub(
        rf"{re.escape(BUILDING_PREFIX)}[0-9a-f]+",
        f"{BUILDING_PREFIX}…",
        str(error).split("\n", 1)[0],
    )[:300]
