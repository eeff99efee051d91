"""The methods of `inference.GRPCInferenceService`."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from model_store.errors import ImageError
from service.engine.loaded_version import LoadedVersion
from service.errors import ClientDisconnectedError, ServiceError
from service.http.api_keys import ApiKeys
from service.http.client_limits import ClientRateLimits
from service.http.management import ManagementRequests
from service.http.metrics import ServiceMetrics
from service.http.path_params import parse_version_number
from service.http.problem_details import report_error
from service.http.request_tracing import end_call_trace
from service.http.service_counts import ServiceCounts
from service.key_file import Scope
from service.prediction.pipeline import PredictionPipeline
from service.prediction.request import RequestRecord
from service.protocols.open_inference.errors import error_message
from service.protocols.open_inference.metadata import (
    describe_config,
    describe_metadata,
    describe_server,
)
from service.protocols.open_inference.outputs import read_results
from service.protocols.open_inference.parameters import MAX_ID_LENGTH
from service.protocols.open_inference.repository import check_change, list_repository
from service.protocols.open_inference.schemas import RepositoryChange
from service.protocols.open_inference.statistics import describe_statistics, find_served
from service.protocols.open_inference_grpc import open_inference_pb2 as pb
from service.protocols.open_inference_grpc.message_fields import check_fields
from service.protocols.open_inference_grpc.messages import (
    build_infer_message,
    parse_message,
    read_infer_message,
    read_parameters,
)
from service.protocols.open_inference_grpc.rpc import Context, Rpc, answering, fill
from service.versions.operations import Operations

if TYPE_CHECKING:
    from service.tracing import Tracing

MAX_STREAM_REQUESTS: Final = 32
"""Most requests of a stream that are in progress. Later ones are not read yet."""

ENCODED_METHODS: Final = frozenset(
    {"ModelInfer", "ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload"}
)
"""They get encoded messages, because parsing can be costly."""


@dataclass(frozen=True)
class GrpcParts:
    """What the servicer shares with the HTTP routes."""

    pipeline: PredictionPipeline
    metrics: ServiceMetrics
    counts: ServiceCounts
    keys: ApiKeys
    management: ManagementRequests
    max_images: int
    tracing: "Tracing | None" = None
    clients: ClientRateLimits | None = None


class OpenInferenceServicer:
    """Translates calls into the same functions that the REST routes use.

    The `ENCODED_METHODS` check keys and limits before they parse their messages.
    """

    def __init__(self, parts: GrpcParts) -> None:
        self._parts = parts
        self._registry = parts.pipeline.registry
        self._operations = Operations(self._registry)

    async def ServerLive(self, _: Any, context: Context) -> pb.ServerLiveResponse:
        del context
        return pb.ServerLiveResponse(live=not self._registry.stopped_parts)

    async def ServerReady(self, _: Any, context: Context) -> pb.ServerReadyResponse:
        del context
        return pb.ServerReadyResponse(ready=self._registry.service_ready)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        async with answering(context, "ModelReady"):
            self._find(request.name, request.version)
            return pb.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _: Any, context: Context) -> pb.ServerMetadataResponse:
        async with answering(context, "ServerMetadata"):
            return fill(pb.ServerMetadataResponse(), describe_server())

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        async with answering(context, "ModelMetadata"):
            loaded = self._find(request.name, request.version)
            return fill(pb.ModelMetadataResponse(), describe_metadata(loaded, self._registry))

    async def ModelConfig(
        self, request: pb.ModelConfigRequest, context: Context
    ) -> pb.ModelConfigResponse:
        async with answering(context, "ModelConfig"):
            document = describe_config(self._find(request.name, request.version))
            return pb.ModelConfigResponse(config=fill(pb.ModelConfig(), document))

    async def ModelStatistics(
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        async with answering(context, "ModelStatistics") as rpc:
            self._check(rpc, "metrics")
            found = find_served(self._registry, request.name or None, _number(request.version))
            versions = await self._parts.counts.versions()
            documents = [describe_statistics(each, versions) for each in found]
            messages = [fill(pb.ModelStatistics(), document) for document in documents]
            return pb.ModelStatisticsResponse(model_stats=messages)

    async def RepositoryIndex(
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        async with answering(context, "RepositoryIndex") as rpc:
            self._check(rpc, "manage")
            found = await asyncio.to_thread(
                list_repository, self._registry, only_ready=request.ready
            )
            index = pb.RepositoryIndexResponse
            return index(models=[fill(index.ModelIndex(), each) for each in found])

    async def RepositoryModelLoad(
        self, data: bytes, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async with answering(context, "RepositoryModelLoad") as rpc:
            self._check(rpc, "manage")
            request = parse_message(pb.RepositoryModelLoadRequest(), data)
            check_change(RepositoryChange(parameters=read_parameters(request.parameters)))
            change = partial(self._operations.load_model, request.model_name)
            await self._parts.management.run_alone(change)
            return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, data: bytes, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async with answering(context, "RepositoryModelUnload") as rpc:
            self._check(rpc, "manage")
            request = parse_message(pb.RepositoryModelUnloadRequest(), data)
            check_change(RepositoryChange(parameters=read_parameters(request.parameters)))
            change = partial(self._operations.unload_model, request.model_name)
            await self._parts.management.run_alone(change)
            return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, data: bytes, context: Context) -> pb.ModelInferResponse:
        async with answering(context, "ModelInfer") as rpc:
            return await self._infer(data, pb.ModelInferRequest(), rpc)

    async def ModelStreamInfer(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answer the requests of a stream in their order. An error ends only its request."""
        async with answering(context, "ModelStreamInfer") as rpc:
            waiting: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = (
                asyncio.Queue(MAX_STREAM_REQUESTS)
            )

            async def read() -> None:
                async for data in requests:
                    await waiting.put(group.create_task(self._infer_in_stream(data, rpc)))
                await waiting.put(None)

            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                while (answer := await waiting.get()) is not None:
                    await context.write(await answer)

    async def _infer_in_stream(self, data: bytes, rpc: Rpc) -> pb.ModelStreamInferResponse:
        request = pb.ModelInferRequest()
        try:
            answer = await self._infer(data, request, rpc)
            return pb.ModelStreamInferResponse(infer_response=answer)
        except Exception as error:  # noqa: BLE001  every error becomes a message
            sent = (request.model_name, request.model_version, request.id)
            name, version, request_id = (text[:MAX_ID_LENGTH] for text in sent)
            failed = pb.ModelInferResponse(model_name=name, model_version=version, id=request_id)
            message = error_message(report_error(error, rpc.method))
            return pb.ModelStreamInferResponse(error_message=message, infer_response=failed)

    async def _infer(
        self, data: bytes, message: pb.ModelInferRequest, rpc: Rpc
    ) -> pb.ModelInferResponse:
        """Parse a request into `message`, answer it, and count it."""
        record, code = RequestRecord(), "ok"
        if tracing := self._parts.tracing:
            record.trace = rpc.start_trace(tracing, record.started)
        try:
            self._check(rpc, "predict")
            with self._parts.pipeline.uploads.upload() as reserve:
                reserve(len(data))
                check_fields(data, self._parts.max_images)
                return await self._predict(parse_message(message, data), rpc, record)
        except asyncio.CancelledError:
            code = report_error(ClientDisconnectedError(), rpc.method).code
            raise
        except Exception as error:
            record.set_error(error)
            code = error.code if isinstance(error, ServiceError | ImageError) else "internal_error"
            raise
        finally:
            self._parts.metrics.observe(record, code)
            rpc.prediction = record
            if record.trace:
                end_call_trace(record.trace, code, record)

    async def _predict(
        self, message: pb.ModelInferRequest, rpc: Rpc, record: RequestRecord
    ) -> pb.ModelInferResponse:
        parts = self._parts
        number = _number(message.model_version)
        with parts.pipeline.lease(message.model_name or None, number) as loaded:
            version = loaded.version
            record.model, record.version, record.digest = (
                version.model,
                version.number,
                version.digest,
            )
            infer = await read_infer_message(message, loaded, parts.max_images)
            record.seconds["receive"] = time.monotonic() - record.started
            remaining = rpc.context.time_remaining()
            request = infer.to_predict_request(math.inf if remaining is None else remaining)
            # A client that disconnects or cancels its call cancels this coroutine.
            connected = asyncio.get_running_loop().create_future()
            outcomes = await parts.pipeline.predict(loaded, request, record, connected)
            return build_infer_message(infer, read_results(outcomes), loaded)

    def _find(self, name: str, version: str) -> LoadedVersion:
        return self._registry.find(name or None, _number(version))

    def _check(self, rpc: Rpc, scope: Scope) -> None:
        """Check the client's limit and its key. Raises ServiceError."""
        if self._parts.clients:
            self._parts.clients.check(rpc.client)
        self._parts.keys.check(rpc.headers.get("authorization"), scope)


def _number(version: str) -> int | None:
    return parse_version_number(version) if version else None
