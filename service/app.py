"""`create_app(settings)`: the only place that knows every part and puts them together."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from fastapi import FastAPI

from model_store.session import SessionOptions
from model_store.store import BUILTIN_ROOT, ModelStore
from service import __version__
from service.cpu_limit import cpu_limit
from service.documentation import add_documentation
from service.keys import Keys
from service.management_routes import build_management_router
from service.prediction import Predictor
from service.problems import add_error_handlers
from service.registry import Registry
from service.routes import build_router
from service.served_version import EngineOptions
from service.settings import Settings
from service.version_policy import parse_policy
from service.watcher import watch

DESCRIPTION = """Answers a photo with labels: **POST** an image to `/v1/predict`.

Errors are problem details (RFC 9457) with a stable `code`. In a batch one bad image gets its own error in its place.
"""


def create_app(settings: Settings, on_loaded: Callable[[Registry], None] = lambda _: None) -> FastAPI:
    """The service as an ASGI application. Models load in the background once it starts; `on_loaded` is told when they have.

    Raises KeysError.
    """
    cpus = cpu_limit()
    options = EngineOptions(
        max_batch_size=settings.max_batch_size,
        max_queue_delay_seconds=settings.max_queue_delay_seconds,
        instances=settings.instances or cpus,
        session=SessionOptions(intra_op_num_threads=settings.intra_op_num_threads),
        precision=settings.precision,
    )
    store = ModelStore(settings.store, BUILTIN_ROOT if settings.builtin else None)
    keys = Keys(settings.keys)
    policy = parse_policy(settings.version_policy)
    registry = Registry(store, options, settings.default_model, lambda _: policy)
    decode_workers = settings.decode_workers or cpus
    decoders = ThreadPoolExecutor(decode_workers, thread_name_prefix="decode")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping = asyncio.Event()
        watching = asyncio.create_task(watch(registry, settings.store_poll_seconds, stopping, on_loaded))
        yield
        stopping.set()
        await watching
        await asyncio.to_thread(registry.close)
        decoders.shutdown()

    app = FastAPI(
        title="Resident",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would redirect to whatever Host the client has sent
        lifespan=lifespan,
    )
    app.include_router(build_router(registry, Predictor(settings, registry, decoders, decode_workers), keys))
    app.include_router(build_management_router(registry, keys, settings.body_timeout_seconds))
    add_documentation(app)
    add_error_handlers(app)
    return app
