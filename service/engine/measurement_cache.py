"""Stores the measurements of a version's warm-up, so that the next start can skip them.

The file of a measurement is `<cache>/measurements/<key>.json`.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnxruntime

from model_store import __version__
from model_store.files import read_bounded, write_atomically
from model_store.graph_cache import cpu_description
from model_store.host_cache import mark_used, open_host_cache, prune_entries
from model_store.version import Version

if TYPE_CHECKING:
    from service.engine.options import EngineOptions

FOLDER: Final = "measurements"
MAX_FILE_BYTES: Final = 64 * 1024
MAX_FOLDER_BYTES: Final = 256 * 1024
_FORMAT: Final = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MeasurementCache:
    """Measurements by key. Without a usable directory it is empty and keeps nothing.

    Attributes:
        root: The host's cache directory.
    """

    root: Path

    def read(self, key: str) -> bytes | None:
        """The JSON of a measurement, or None."""
        try:
            path = open_host_cache(self.root, FOLDER) / f"{key}.json"
            data = read_bounded(path, MAX_FILE_BYTES)
        except OSError:
            return None
        mark_used(path)
        return data

    def write(self, key: str, data: bytes) -> None:
        try:
            path = open_host_cache(self.root, FOLDER) / f"{key}.json"
            write_atomically(path, data)
            prune_entries(path.parent, MAX_FOLDER_BYTES, keep=path)
        except OSError as error:
            logger.debug("measurement not kept reason=%r", error.strerror or str(error))


def measurement_key(version: Version, options: "EngineOptions") -> str:
    """The sha256 of everything that affects CPU times and the choices based on them."""
    session = options.session
    parts = [
        *(_FORMAT, __version__, onnxruntime.__version__, onnxruntime.get_build_info()),
        *(cpu_description(), version.digest, options.precision, options.max_batch_size),
        *(session.providers, session.intra_op_num_threads, session.allow_spinning),
        options.lone_threads,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
