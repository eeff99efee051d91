"""A server that an operator manages with an API key, and how to wait for what it does."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from colour_model import MODEL, WEIGHTS, plain, publish
from server_process import PATIENCE_SECONDS, ServerProcess, running

from model_store.store import ModelStore
from service.key_changes import add_key

BASE = f"/v1/models/{MODEL}"


OTHER_WEIGHTS = WEIGHTS[:, ::-1].copy()  # a model that classifies red as white


def publish_other(store: ModelStore, model: str = MODEL) -> int:
    """Publish a proven version with other answers than the first one."""
    return publish(store, model, weights=OTHER_WEIGHTS, golden_weights=OTHER_WEIGHTS)


def eventually(ask: Callable[[], Any], expected: Any) -> None:
    """Ask until the answer is the expected one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answer := ask()) != expected:
        assert time.monotonic() < deadline, f"it is still {answer!r}, and not {expected!r}"
        time.sleep(0.01)


@dataclass
class Operator:
    """A server and a client with a manage key."""

    server: ServerProcess
    client: httpx.Client
    keys: Path
    secret: str

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(f"{BASE}/{path}", json=body or None)

    def done(self, path: str, **body: Any) -> dict[str, Any]:
        """The model after a change, which must succeed."""
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
    """The model after the last request on an unloaded version has ended."""
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
