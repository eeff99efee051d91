"""The gRPC server. It runs in the event loop of the HTTP server."""

import logging
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.protocols.open_inference_grpc.arriving_messages import ArrivalLimits
from service.protocols.open_inference_grpc.health import ReadinessServicer
from service.protocols.open_inference_grpc.open_inference_pb2 import DESCRIPTOR
from service.protocols.open_inference_grpc.servicer import (
    ENCODED_METHODS,
    GrpcParts,
    OpenInferenceServicer,
)

MAX_CALLS: Final = 1024
"""Most calls at once; others get RESOURCE_EXHAUSTED."""
_INFERENCE: Final = DESCRIPTOR.services_by_name["GRPCInferenceService"]
logger = logging.getLogger(__name__)


class GrpcServer:
    """Inference, health and reflection on one port."""

    def __init__(
        self,
        parts: GrpcParts,
        host: str,
        port: int,
        max_message_bytes: int,
        *,
        body_timeout_seconds: float,
        shares_port: bool = False,
        tls_files: tuple[Path, Path] | None = None,
    ) -> None:
        """Prepare the server.

        Args:
            parts: What it shares with the HTTP routes.
            host: The address to listen on.
            port: The port to listen on; 0 for a free one.
            max_message_bytes: Largest message.
            shares_port: Whether other workers listen on the same port.
            tls_files: Certificate and key; None for no TLS.
        """
        self._parts = parts
        self._tls_files = tls_files
        self._address = f"[{host}]" if ":" in host else host
        self.port = port
        """The port; after the start never 0."""
        self._options = (
            ("grpc.max_receive_message_length", max_message_bytes),
            # A call that waits to be read then holds at most 64 KiB.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.so_reuseport", int(shares_port)),  # else a second server could share the port
        )
        self._places = max(1, parts.pipeline.uploads.max_bytes // max_message_bytes)
        self._body_timeout_seconds = body_timeout_seconds
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = grpc.aio.server(
            interceptors=[ArrivalLimits(self._places, self._body_timeout_seconds)],
            options=self._options,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        server.add_generic_rpc_handlers((_build_handler(OpenInferenceServicer(self._parts)),))
        health = ReadinessServicer(self._parts.pipeline.registry)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names = [
            _INFERENCE.full_name,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ]
        reflection.enable_server_reflection(names, server)
        address = f"{self._address}:{self.port}"
        if self._tls_files:
            self.port = server.add_secure_port(address, _credentials(*self._tls_files))
        else:
            self.port = server.add_insecure_port(address)
        await server.start()
        self._server = server
        logger.info("gRPC server running on %s:%d", self._address, self.port)

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and finish those in progress within the grace period."""
        if self._server:
            await self._server.stop(grace_seconds)


def _credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Read the files again for each connection, because certificates are renewed."""

    def read() -> grpc.ServerCertificateConfiguration:
        pair = (key.read_bytes(), certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair])

    def read_again() -> grpc.ServerCertificateConfiguration | None:
        try:
            return read()
        except OSError:
            return None  # the files that were read last stay in use

    return grpc.dynamic_ssl_server_credentials(read(), read_again)


def _build_handler(servicer: OpenInferenceServicer) -> grpc.GenericRpcHandler:
    """Serve each method of the .proto file by the servicer's method of the same name."""
    handlers = {}
    for method in _INFERENCE.methods:
        build = (
            grpc.stream_stream_rpc_method_handler
            if method.client_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        handlers[method.name] = build(
            getattr(servicer, method.name),
            request_deserializer=None
            if method.name in ENCODED_METHODS
            else GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(_INFERENCE.full_name, handlers)
