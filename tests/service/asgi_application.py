"""The application in the test's process, with a model that can be held and raw clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from colour_model import MODEL
from gated_model import GatedModel
from server_process import PATIENCE_SECONDS

from service.app import create_app
from service.engine.loaded_version import LoadedVersion
from service.http.predict_endpoint import PredictEndpoint
from service.settings import Settings
from service.versions.reconciler import reconcile
from service.versions.registry import Registry


@dataclass
class Application:
    """A started application with loaded models, and a client that needs no socket."""

    app: PredictEndpoint
    registry: Registry
    client: httpx.AsyncClient

    def served(self, model: str = "colours") -> LoadedVersion:
        served = self.registry.models[model].default_version
        assert served
        return served

    async def reconcile(self) -> None:
        """Follow the store until no version is on trial."""
        await asyncio.to_thread(reconcile, self.registry)
        while any(model.on_trial for model in self.registry.models.values()):
            await asyncio.to_thread(reconcile, self.registry)

    def hold_model(self, model: str = "colours") -> GatedModel:
        """Put a gate before the model: what is predicted from now on waits until it is opened."""
        batcher = self.served(model).batcher
        gated = GatedModel(batcher._run)
        batcher._run = gated
        return gated


@asynccontextmanager
async def started(root: Path, **settings: Any) -> AsyncIterator[Application]:
    """The application over a store, from its start until its models are unloaded."""
    loaded: asyncio.Future[Registry] = asyncio.get_running_loop().create_future()
    own = {"builtin": False, "default_model": MODEL, "instances": 1}
    app = create_app(
        Settings(store=root, **{**own, **settings}),
        loaded.set_result,
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.api.router.lifespan_context(app.api),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield Application(app, await asyncio.wait_for(loaded, PATIENCE_SECONDS), client)


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until something holds."""
    for _ in iter(condition, True):
        await asyncio.sleep(0)


@dataclass
class RawClient:
    """One request whose ASGI messages the test sends one by one."""

    path: str = "/v1/predict"
    headers: dict[str, str] = field(default_factory=dict)
    query: bytes = b""
    messages: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0
    body: bytes = b""

    def send_body(self, body: bytes, *, more: bool = False) -> None:
        self.messages.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def request(self, app: Callable[..., Awaitable[None]]) -> "RawClient":
        """Run the application on this request until it is done with it."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in self.headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }

        async def receive() -> dict[str, Any]:
            self.asked.set()
            return await self.messages.get()

        async def send(message: dict[str, Any]) -> None:
            self.status = message.get("status", self.status)
            self.body += message.get("body", b"")

        await app(scope, receive, send)
        return self
