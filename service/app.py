"""`create_app(settings)` wires the parts of the service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from starlette.types import Lifespan

from model_store import __version__
from model_store.errors import StoreUnreadableError
from model_store.graph_cache import GraphCache
from model_store.host_cache import try_host_cache
from model_store.open_store import open_store
from model_store.providers import find_providers, keeps_engines
from model_store.store import BUILTIN_ROOT, ModelStore
from service.engine.measurement_cache import MeasurementCache
from service.engine.options import Caches, EngineOptions, engine_options
from service.fetch_targets import parse_fetch_hosts
from service.http.api_keys import ApiKeys
from service.http.client_limits import ClientRateLimits
from service.http.dialect import Dialect
from service.http.embed_api import EmbedApi
from service.http.examples import build_example_router
from service.http.gpu_metrics import GpuCollector
from service.http.health import build_health_router
from service.http.host_metrics import HostCollector
from service.http.image_api import ImageApi
from service.http.key_usage import KeyCollector
from service.http.management import ManagementRequests, build_management_router
from service.http.metrics import ServiceMetrics, build_metrics_router
from service.http.models import build_model_router
from service.http.openapi import add_documentation
from service.http.predict_endpoint import PredictEndpoint
from service.http.problem_details import add_error_handlers
from service.http.refusals import build_refusals
from service.http.request_body import BodyLimits
from service.http.service_counts import ServiceCounts
from service.http.shared_rate_limit import SharedRateLimit
from service.http.training_report import build_report_router
from service.http.triton_metrics import TritonCollector
from service.memory_plan import MemoryPlan
from service.page.routes import add_page
from service.prediction.admission import UploadBudget
from service.prediction.decode_pool import DecodePool
from service.prediction.decoder import DecoderLimits
from service.prediction.image_fetcher import ImageFetcher
from service.prediction.pipeline import PredictionPipeline
from service.protocols.grpc_extra import build_grpc_server
from service.protocols.open_inference.errors import error_reply
from service.protocols.open_inference.rest_infer import OpenInferenceApi
from service.protocols.open_inference.routes import build_open_inference_router
from service.protocols.tensorflow_serving import TensorFlowServingApi
from service.protocols.torchserve import TorchServeApi
from service.protocols.torchserve import error_reply as torchserve_error_reply
from service.protocols.torchserve_routes import build_torchserve_router
from service.settings import Settings, parse_formats, parse_names
from service.versions.readiness import RequiredModels
from service.versions.registry import Registry
from service.versions.trial_records import TrialRecords
from service.versions.trials import Trials
from service.versions.watcher import watch
from service.workers.exchange import Exchange
from service.workers.link import WorkerPart
from service.workers.linked_exchange import LinkedExchange
from service.workers.shares import Share

if TYPE_CHECKING:
    from service.protocols.open_inference_grpc.server import GrpcServer
    from service.tracing import Tracing

ENGINES = "engines"
DESCRIPTION = """Classifies images: **POST** an image to `/v1/predict`.

Errors are problem details (RFC 9457) with a stable `code`. In a request with several images, an
image that cannot be classified gets an error in its place.
"""


def create_app(
    settings: Settings,
    on_loaded: Callable[[Registry], None] = lambda _: None,
    worker: WorkerPart | None = None,
) -> PredictEndpoint:
    """Build the ASGI application. Its models load in the background once it starts.

    Args:
        settings: The settings of the service. `keys` must exist if it is set explicitly.
        on_loaded: Called once the models are loaded, in all workers if there are several.
        worker: Which one of several workers this process is.

    Raises:
        ProviderError: A provider that the settings name cannot be used.
        ApiKeysError: The file of API keys cannot be read, or is set explicitly and missing.
        GrpcMissingError: `grpc_port` is set, and the extra `grpc` is not installed.
    """
    worker = worker or WorkerPart()
    share = Share.of(settings, worker.count)
    settings = share.settings
    exchange = LinkedExchange(worker.link) if worker.link else Exchange()
    registry = _build_registry(share, exchange)
    plan = MemoryPlan.make(settings, share.cpus, share.memory_bytes)
    decoders = DecodePool(
        plan.decode_workers,
        DecoderLimits(plan.max_pixels),
        plan.decode_bytes,
        parse_formats(settings.formats),
    )
    keys = _read_keys(settings, worker)
    uploads = UploadBudget(plan.upload_bytes)
    metrics = ServiceMetrics(
        registry,
        HostCollector(registry, decoders, uploads),
        KeyCollector(lambda: keys.keys, keys.last_used),
        GpuCollector(),
    )
    if settings.triton_metrics:
        metrics.registry.register(TritonCollector(registry, metrics.versions))
    counts = ServiceCounts(registry, metrics, exchange)
    tracing = _build_tracing(settings)
    management = ManagementRequests(keys, settings.body_timeout_seconds, registry, exchange)
    pipeline = PredictionPipeline(
        registry,
        decoders,
        uploads,
        decodes_per_request=max(1, plan.decode_workers // 2),
        fetcher=_build_fetcher(settings),
    )
    rate = settings.client_requests_per_second
    clients = ClientRateLimits(rate) if rate else None
    grpc_server = build_grpc_server(
        settings,
        shares_port=worker.link is not None,
        pipeline=pipeline,
        metrics=metrics,
        counts=counts,
        keys=keys,
        management=management,
        tracing=tracing,
        clients=clients,
    )
    lifespan = _lifespan(
        registry, decoders, grpc_server, settings, on_loaded, worker, exchange, tracing
    )
    api = _build_api(registry, keys, management, counts, lifespan, settings)
    limits = BodyLimits(settings.max_images, settings.max_body_bytes)
    dialects: list[Dialect] = [
        ImageApi(limits),
        EmbedApi(limits),
        OpenInferenceApi(settings.max_images),
        TensorFlowServingApi(settings.max_images),
    ]
    if settings.torchserve_api:
        dialects.append(TorchServeApi(limits))
    refusals = build_refusals(settings, clients)
    return PredictEndpoint(api, pipeline, metrics, keys, settings, dialects, tracing, refusals)


def _build_tracing(settings: Settings) -> "Tracing | None":
    if not settings.otlp_endpoint:
        return None
    from service.tracing import Tracing  # noqa: PLC0415  an extra

    return Tracing(settings.otlp_endpoint)


def _read_keys(settings: Settings, worker: WorkerPart) -> ApiKeys:
    required = "keys" in settings.model_fields_set
    if worker.buckets is None:
        return ApiKeys(settings.keys, required=required)
    new_limit = partial(SharedRateLimit, worker.buckets)
    return ApiKeys(settings.keys, required=required, new_limit=new_limit)


def _build_fetcher(settings: Settings) -> ImageFetcher | None:
    hosts = parse_fetch_hosts(settings.fetch_allow)
    limits = (settings.max_body_bytes, settings.body_timeout_seconds)
    return ImageFetcher(hosts, *limits) if hosts else None


def _build_registry(share: Share, exchange: Exchange) -> Registry:
    settings = share.settings
    providers = find_providers(settings.providers)
    caches = Caches(
        GraphCache(settings.cache, settings.cache_max_bytes) if settings.cache_max_bytes else None,
        try_host_cache(settings.cache, ENGINES) if keeps_engines(providers) else None,
        MeasurementCache(settings.cache),
    )
    store = _open_store(settings)
    named_default_model = settings.named_default_model or _find_single_model(store)

    def options_of(model: str) -> EngineOptions:
        return engine_options(settings, model, share.all_cpus, providers, caches, share.workers)

    required = None if settings.required_models is None else parse_names(settings.required_models)
    return Registry(
        store,
        options_of,
        named_default_model or settings.served_default_model,
        settings.version_policy_of,
        RequiredModels(
            named_default_model,
            required,
            settings.models,
            "SERVICE_DEFAULT_MODEL" if settings.default_model else "SERVICE_MODEL_NAME",
        ),
        Trials(
            TrialRecords(settings.cache, logs_known_failures=exchange.is_first),
            settings.load_timeout_seconds,
            settings.load_memory_bytes,
            exchange.trials,
        ),
    )


def _open_store(settings: Settings) -> ModelStore:
    trusted_keys = None
    if settings.require_signature:
        from model_store.signature import TrustedKeys  # noqa: PLC0415  takes 30 ms

        trusted_keys = TrustedKeys.read(settings.require_signature)
    return open_store(
        settings.store,
        BUILTIN_ROOT if settings.builtin else None,
        may_appear=True,
        trusted_keys=trusted_keys,
        model_name=settings.model_name,
        cache=settings.cache,
        cache_max_bytes=settings.store_cache_max_bytes,
    )


def _find_single_model(store: ModelStore) -> str | None:
    try:
        return store.single_model()
    except StoreUnreadableError:
        return None  # reading its contents reports it


def _lifespan(
    registry: Registry,
    decoders: DecodePool,
    grpc_server: "GrpcServer | None",
    settings: Settings,
    on_loaded: Callable[[Registry], None],
    worker: WorkerPart,
    exchange: Exchange,
    tracing: "Tracing | None",
) -> Lifespan[FastAPI]:
    """Follow the store from the start of the server to its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        stopping, loaded = asyncio.Event(), asyncio.Event()

        def after_loading(registry: Registry) -> None:
            decoders.start_soon()
            loaded.set()
            if worker.link is None:
                on_loaded(registry)

        exchange.on_all_loaded = partial(on_loaded, registry)
        await exchange.start(registry)
        watching = asyncio.create_task(
            watch(registry, settings.store_poll_seconds, stopping, after_loading)
        )
        if worker.replaces_another:
            await loaded.wait()  # until then, the other workers answer
        if grpc_server:
            await grpc_server.start()
        yield
        registry.stop()
        if grpc_server:
            await grpc_server.stop(settings.shutdown_seconds)
        stopping.set()
        await decoders.close()
        await watching
        await asyncio.to_thread(registry.close)
        await exchange.stop()
        if tracing:
            await asyncio.to_thread(tracing.close)

    return lifespan


def _build_api(
    registry: Registry,
    keys: ApiKeys,
    management: ManagementRequests,
    counts: ServiceCounts,
    lifespan: Lifespan[FastAPI],
    settings: Settings,
) -> FastAPI:
    """All routes but those of predictions."""
    api = FastAPI(
        title="Resident",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would go to any Host that a client sends
        lifespan=lifespan,
    )

    api.include_router(build_model_router(registry))
    api.include_router(build_example_router(registry, keys))
    api.include_router(build_report_router(registry, keys))
    api.include_router(build_health_router(registry))
    api.include_router(
        build_metrics_router(counts.metrics), dependencies=[Depends(keys.require("metrics"))]
    )
    api.include_router(build_management_router(registry, management))
    api.include_router(build_open_inference_router(registry, counts, management, keys))
    error_replies = {"/v2": error_reply}
    if settings.torchserve_api:
        api.include_router(build_torchserve_router(registry, management))
        error_replies |= dict.fromkeys(("/ping", "/models"), torchserve_error_reply)
    add_page(api, registry, counts, keys, management, enabled=settings.page)
    add_documentation(api, registry, settings)
    add_error_handlers(api, error_replies)
    return api
