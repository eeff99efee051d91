"""A server whose models an operator changes, with a key that may."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from colour_model import MODEL, plain
from server_process import ServerProcess, running

from model_store.store import ModelStore
from service.key_file import add_key

BASE = f"/v1/models/{MODEL}"


@dataclass
class Operator:
    """A server, and a client with a key that may manage it."""

    server: ServerProcess
    client: httpx.Client
    keys: Path
    secret: str

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"{BASE}/{path}", json=body or None)

    def done(self, path: str, **body: Any) -> dict[str, Any]:
        """What the model is after a change that must succeed."""
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        detail: dict[str, Any] = response.json()
        assert settled(detail) == settled(self.client.get(BASE).json()), (
            "it answers with the model as it is now"
        )
        return detail

    def version(self) -> int:
        answer: dict[str, int] = self.client.post("/v1/predict", content=plain("red")).json()
        return answer["version"]


def settled(detail: dict[str, Any]) -> dict[str, Any]:
    """What it is once requests on what was unloaded have ended."""
    versions = [
        {**version, "state": version["state"].replace("unloading", "available")}
        for version in detail["versions"]
    ]
    return {**detail, "versions": versions}


@contextmanager
def operating(store: ModelStore, *arguments: object) -> Iterator[Operator]:
    keys = store.root.parent / "keys.json"
    secret = add_key(keys, "deploy", ["manage"])
    flags = (
        "--store",
        store.root,
        "--no-builtin",
        "--keys",
        keys,
        "--store-poll-seconds",
        0.05,
    )
    with running(*flags, *arguments) as server, server.announced().client() as client:
        client.headers["Authorization"] = f"Bearer {secret}"
        yield Operator(server, client, keys, secret)
        server.end()
        assert secret not in server.stdout.text + server.stderr.text, "a key is in no log"
        assert "Traceback" not in server.stderr.text


def states(detail: dict[str, Any]) -> dict[int, str]:
    return {version["version"]: version["state"] for version in detail["versions"]}
