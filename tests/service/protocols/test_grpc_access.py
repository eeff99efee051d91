"""Every call of gRPC and the scope that it needs. A call that is missing here fails the test."""

import asyncio
import re
from pathlib import Path

import grpc
import pytest
from asgi_application import started
from certificates import write_certificate
from google.protobuf.message_factory import GetMessageClass
from grpc_server import InferenceStub, serving

from model_store.store import ModelStore
from service.key_changes import add_key
from service.key_file import SCOPES
from service.protocols.open_inference_grpc import open_inference_pb2 as pb
from service.protocols.open_inference_grpc import server

pytestmark = pytest.mark.anyio
OPEN = None  # needs no key
SCOPE_OF_CALL: dict[str, str | None] = {
    "ModelInfer": "predict",
    "ModelStreamInfer": "predict",
    "ModelStatistics": "metrics",
    "RepositoryIndex": "manage",
    "RepositoryModelLoad": "manage",
    "RepositoryModelUnload": "manage",
    "ServerLive": OPEN,
    "ServerReady": OPEN,
    "ServerMetadata": OPEN,
    "ModelReady": OPEN,
    "ModelMetadata": OPEN,
    "ModelConfig": OPEN,
}
METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED


def test_table_has_every_call() -> None:
    assert set(METHODS) == set(SCOPE_OF_CALL)


async def call(stub: InferenceStub, name: str, secret: str | None) -> grpc.StatusCode | str:
    """The status of a call with an empty message; of a stream, the message of its first answer."""
    message = GetMessageClass(METHODS[name].input_type)()
    metadata = [("authorization", f"Bearer {secret}")] if secret else []
    try:
        if METHODS[name].client_streaming:
            async for answer in getattr(stub, name)(iter([message]), metadata=metadata):
                return str(answer.error_message)
        await getattr(stub, name)(message, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def is_refused(status: grpc.StatusCode | str, expected: grpc.StatusCode) -> bool:
    """A stream ends only with the connection, so it answers with the message of the error."""
    if isinstance(status, str):
        words = {UNAUTHENTICATED: "API key", DENIED: "does not have the scope"}
        return words[expected] in status
    return status == expected


async def test_calls_need_their_scopes(
    colour_store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys.json"
    secrets = {scope: add_key(keys, scope, [scope]) for scope in SCOPES}
    async with serving(colour_store.root, caplog, keys=keys) as (_, channel):
        stub = InferenceStub(channel)
        for name, scope in SCOPE_OF_CALL.items():
            for secret in (None, "resident_guess"):
                status = await call(stub, name, secret)
                assert is_refused(status, UNAUTHENTICATED) is (scope is not OPEN), name
            for other in SCOPES:
                refused = scope is not OPEN and other != scope
                status = await call(stub, name, secrets[other])
                assert is_refused(status, DENIED) is refused, (name, other, status)


async def test_calls_at_once_are_limited(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call beyond the limit is rejected at once; after the others it is answered."""
    monkeypatch.setattr(server, "MAX_CALLS", 1)
    async with serving(colour_store.root, caplog) as (_, channel):
        stub = InferenceStub(channel)
        stream = stub.ModelStreamInfer()
        await stream.write(pb.ModelInferRequest(model_name="absent"))
        assert "absent" in (await stream.read()).error_message
        assert await call(stub, "ServerLive", None) == grpc.StatusCode.RESOURCE_EXHAUSTED
        await stream.done_writing()
        assert await stream.read() == grpc.aio.EOF
        while await call(stub, "ServerLive", None) != grpc.StatusCode.OK:  # noqa: ASYNC110  a poll
            await asyncio.sleep(0)


async def test_renewed_certificate_is_used_for_new_connections(
    colour_store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the files are missing, the old certificate stays in use."""
    files = write_certificate(tmp_path)
    tls = {"ssl_certfile": files[0], "ssl_keyfile": files[1]}
    caplog.set_level("INFO")
    async with started(colour_store.root, grpc_port=0, **tls):
        (port,) = re.findall(r"gRPC server running on 127\.0\.0\.1:(\d+)", caplog.text)

        async def is_live(certificate: bytes) -> bool:
            credentials = grpc.ssl_channel_credentials(certificate)
            async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
                return await call(InferenceStub(channel), "ServerLive", None) == grpc.StatusCode.OK

        first = files[0].read_bytes()
        assert await is_live(first)
        files[0].unlink()
        assert await is_live(first)
        write_certificate(tmp_path)
        assert await is_live(files[0].read_bytes())
        assert not await is_live(first)
