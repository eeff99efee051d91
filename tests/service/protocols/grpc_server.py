"""The application with a gRPC server, in the test's process, and calls to it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from asgi_application import Application, started
from google.protobuf.message_factory import GetMessageClass

from service.protocols.open_inference_grpc import open_inference_pb2 as pb


class InferenceStub:
    """The methods of the .proto file as calls on a channel."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
        method = service.methods_by_name[name]
        connect = (
            self._channel.stream_stream if method.client_streaming else self._channel.unary_unary
        )
        return connect(
            f"/{service.full_name}/{name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )


@asynccontextmanager
async def serving(
    root: Path, caplog: pytest.LogCaptureFixture, **settings: Any
) -> AsyncIterator[tuple[Application, Any]]:
    """The application with gRPC on a free port, and a channel to it."""
    caplog.set_level(logging.INFO)
    async with started(root, grpc_port=0, **settings) as application:
        (address,) = (
            record.getMessage().rpartition(" ")[2]
            for record in caplog.records
            if record.getMessage().startswith("gRPC server running on")
        )
        async with grpc.aio.insecure_channel(address) as channel:
            yield application, channel
