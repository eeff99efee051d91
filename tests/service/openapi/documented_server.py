"""A server with every protocol and a manage key, over a model that can do everything."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from colour_model import make_store
from server_process import running

from model_store.store import BUILTIN_DEFAULT_MODEL, BUILTIN_ROOT
from service.key_changes import add_key


@dataclass(frozen=True)
class DocumentedServer:
    address: str
    key: str


@contextmanager
def serving_documented(root: Path) -> Iterator[DocumentedServer]:
    """Two versions of the built-in model, which has an embedding, coverages and explanations."""
    store = make_store(root / "store")
    for version in ("1", "2"):
        shutil.copytree(
            BUILTIN_ROOT / BUILTIN_DEFAULT_MODEL / "1",
            store.root / BUILTIN_DEFAULT_MODEL / version,
        )
        store.promote(BUILTIN_DEFAULT_MODEL, int(version))
    keys = root / "keys.json"
    key = add_key(keys, "everything", ["manage", "predict"])
    flags = ("--torchserve-api", "--keys", keys, "--version-policy", "all", "--no-builtin")
    with running("--store", store.root, "--default-model", BUILTIN_DEFAULT_MODEL, *flags) as server:
        yield DocumentedServer(server.announced().address, key)
        server.end()
        assert "Traceback" not in server.stderr.text
