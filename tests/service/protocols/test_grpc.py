"""The gRPC server in the test's process: contents, deadlines, cancelling, limits, keys, health."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from asgi_application import until
from colour_model import MODEL, SIZE, plain
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_server import InferenceStub, serving
from open_inference_bodies import pixels
from server_process import PATIENCE_SECONDS

from model_store.store import ModelStore
from service.key_changes import add_key
from service.protocols.open_inference_grpc import open_inference_pb2 as pb
from service.settings import MEBIBYTE

pytestmark = pytest.mark.anyio
SHAPE = [1, SIZE, SIZE, 3]


def raw(*colours: str, **fields: Any) -> pb.ModelInferRequest:
    images = pixels(*colours)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="images", datatype="UINT8", shape=images.shape
    )
    return pb.ModelInferRequest(
        model_name=MODEL, inputs=[tensor], raw_input_contents=[images.tobytes()], **fields
    )


def typed(
    datatype: str, shape: list[int], name: str = "images", **contents: Any
) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=pb.InferTensorContents(**contents)
    )
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor])


def labels(response: pb.ModelInferResponse) -> list[str]:
    found = {
        output.name: content
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    text, names = found["labels"], []
    while text:
        length = int.from_bytes(text[:4], "little")
        names.append(text[4 : 4 + length].decode())
        text = text[4 + length :]
    return names


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_raw_and_typed_contents(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Pixels as bytes or numbers, encoded images as bytes; also with many numbers."""
    async with serving(colour_store.root, caplog) as (_, channel):
        infer = InferenceStub(channel).ModelInfer
        response = await infer(raw("red", "blue", id="7"))
        assert (response.id, response.model_name, response.model_version) == ("7", MODEL, "1")
        assert labels(response) == ["red", "blue"]
        scores = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(2, -1)
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        numbers = pixels("green").reshape(-1).tolist()
        assert labels(await infer(typed("UINT8", SHAPE, uint_contents=numbers))) == ["green"]
        images = [plain("cyan", "JPEG"), plain("white")]
        assert labels(await infer(typed("BYTES", [2], bytes_contents=images))) == ["cyan", "white"]
        many = pixels(*["magenta"] * 60)
        request = typed("UINT8", list(many.shape), uint_contents=many.reshape(-1).tolist())
        assert labels(await infer(request)) == ["magenta"] * 60


MALFORMED = {
    "no inputs": pb.ModelInferRequest(model_name=MODEL),
    "another input": typed("UINT8", SHAPE, "image", uint_contents=[0] * 192),
    "another datatype": typed("FP32", SHAPE, fp32_contents=[0.0] * 192),
    "another shape": typed("UINT8", [1, 3, SIZE, SIZE], uint_contents=[0] * 192),
    "negative shape": typed("UINT8", [-1, SIZE, SIZE, 3], uint_contents=[0] * 192),
    "huge shape": typed("UINT8", [2**62, SIZE, SIZE, 3], uint_contents=[0] * 192),
    "negative count": typed("BYTES", [-1], bytes_contents=[b"x"]),
    "too few numbers": typed("UINT8", SHAPE, uint_contents=[0] * 191),
    "too large numbers": typed("UINT8", SHAPE, uint_contents=[256] * 192),
    "contents of another type": typed("UINT8", SHAPE, int_contents=[0] * 192),
    "an empty image": typed("BYTES", [1], bytes_contents=[b""]),
    "no image": typed("BYTES", [1], bytes_contents=[b"no image"]),
    "too much raw": pb.ModelInferRequest(
        model_name=MODEL, inputs=raw("red").inputs, raw_input_contents=[b"", b""]
    ),
    "short raw": pb.ModelInferRequest(
        model_name=MODEL, inputs=raw("red").inputs, raw_input_contents=[b"\0" * 191]
    ),
    "raw and typed": pb.ModelInferRequest(
        model_name=MODEL,
        inputs=typed("UINT8", SHAPE, uint_contents=[0] * 192).inputs,
        raw_input_contents=[b"\0" * 192],
    ),
    "twice": pb.ModelInferRequest(
        model_name=MODEL, inputs=[*raw("red").inputs] * 2, raw_input_contents=[b"\0" * 192] * 2
    ),
    "timeout text": raw("red", parameters={"timeout": pb.InferParameter(string_param="1")}),
    "priority negative": raw("red", parameters={"priority": pb.InferParameter(int64_param=-1)}),
}


async def test_malformed_messages_are_invalid_arguments(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has a message; the next call is answered."""
    async with serving(colour_store.root, caplog) as (_, channel):
        infer = InferenceStub(channel).ModelInfer
        for name, request in MALFORMED.items():
            error = await failure(infer(request))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, name
            assert len(error.details() or "") > 10, name
        assert labels(await infer(raw("red"))) == ["red"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_overload_deadlines_and_cancelled_calls(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """RESOURCE_EXHAUSTED says when to retry; images of ended calls are not run."""
    async with serving(colour_store.root, caplog, max_queue_size=3) as (application, channel):
        infer = InferenceStub(channel).ModelInfer
        model, served = application.hold_model(), application.served()
        running = asyncio.ensure_future(infer(raw("red")))
        await model.begun()
        waiting = infer(raw("blue", "blue"))
        await until(lambda: served.batcher.waiting == 2)
        full = await failure(infer(raw("green")))
        assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert int(dict(full.trailing_metadata())["retry-after"]) >= 1
        waiting.cancel()
        await until(lambda: served.admitted.images == 1)
        short = raw("cyan", parameters={"timeout": pb.InferParameter(int64_param=1)})
        assert (await failure(infer(short))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        model.gate.set()
        assert labels(await running) == ["red"]
        assert (await failure(infer(short))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert model.sizes == [1]
        model.gate.clear()
        late = infer(raw("cyan"), timeout=0.2)
        assert (await failure(late)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: served.admitted.images == 0)
        model.gate.set()
        assert labels(await infer(raw("white"))) == ["white"]
        metrics = (await application.client.get("/metrics")).text
        for outcome in ("ok", "overloaded", "deadline_exceeded", "client_closed_request"):
            assert f'resident_requests_total{{model="colours",outcome="{outcome}"}}' in metrics


async def test_deadline_of_a_call_is_known_to_admission(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be ready in time is rejected at once, instead of at the deadline."""
    async with serving(colour_store.root, caplog, deadline_seconds=5000) as (application, channel):
        infer = InferenceStub(channel).ModelInfer
        model, served = application.hold_model(), application.served()
        running = asyncio.ensure_future(infer(raw("red")))
        await model.begun()
        served.wait_estimate.seconds = lambda *_: 1000.0  # type: ignore[method-assign]
        waiting = asyncio.ensure_future(infer(raw("blue")))
        await until(lambda: served.batcher.waiting == 1)
        rejected = await failure(infer(raw("green"), timeout=PATIENCE_SECONDS))
        assert rejected.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        model.gate.set()
        assert [labels(each) for each in await asyncio.gather(running, waiting)] == [
            ["red"],
            ["blue"],
        ]


async def test_cancelled_stream_ends_its_requests(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits is dropped, and its places are free."""
    async with serving(colour_store.root, caplog) as (application, channel):
        model, served = application.hold_model(), application.served()
        stub = InferenceStub(channel)
        stream = stub.ModelStreamInfer()
        await stream.write(raw("red"))
        await model.begun()
        for _ in range(3):
            await stream.write(raw("blue"))
        await until(lambda: served.admitted.images == 4)
        stream.cancel()
        await until(lambda: served.admitted.images == 0)
        model.gate.set()
        assert labels(await stub.ModelInfer(raw("white"))) == ["white"]


async def test_limits_of_messages_images_and_memory(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A message has the limit of a body, and counts towards the memory of all of them."""
    limits = {"max_body_bytes": 50_000, "max_images": 4, "max_upload_bytes": MEBIBYTE}
    async with serving(colour_store.root, caplog, **limits) as (application, channel):
        infer = InferenceStub(channel).ModelInfer
        large = await failure(infer(typed("BYTES", [1], bytes_contents=[b"x" * 50_000])))
        assert large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        many = await failure(infer(raw(*["red"] * 5)))
        assert many.code() is grpc.StatusCode.INVALID_ARGUMENT
        with application.app._pipeline.uploads.upload() as reserve:
            reserve(MEBIBYTE - 100)
            full = await failure(infer(raw("red")))
            assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert labels(await infer(raw("red"))) == ["red"]


async def test_keys_are_sent_as_metadata(
    colour_store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same keys as over HTTP, for inference, streams and the repository."""
    secret = add_key(tmp_path / "keys.json", "app", ["predict"])
    async with serving(colour_store.root, caplog, keys=tmp_path / "keys.json") as (_, channel):
        stub = InferenceStub(channel)
        key = (("authorization", f"Bearer {secret}"), ("x-request-id", "mine"))
        call = stub.ModelInfer(raw("red"), metadata=key)
        assert labels(await call) == ["red"]
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
        for refused in (
            stub.ModelInfer(raw("red")),
            stub.ModelInfer(raw("red"), metadata=(("authorization", "Bearer x"),)),
        ):
            assert (await failure(refused)).code() is grpc.StatusCode.UNAUTHENTICATED
        (answer,) = [each async for each in stub.ModelStreamInfer(iter([raw("red")]))]
        assert "key" in answer.error_message
        for refused in (
            stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=key),
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL), metadata=key),
            stub.RepositoryModelUnload(
                pb.RepositoryModelUnloadRequest(model_name=MODEL), metadata=key
            ),
        ):
            assert (await failure(refused)).code() is grpc.StatusCode.PERMISSION_DENIED
        assert (await stub.ServerLive(pb.ServerLiveRequest())).live


async def test_health_follows_readiness(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """For the server and the service, as an answer and as a stream."""
    async with serving(colour_store.root, caplog) as (application, channel):
        stub = health_pb2_grpc.HealthStub(channel)
        states = health_pb2.HealthCheckResponse
        names = ("", "inference.GRPCInferenceService")
        requests = [health_pb2.HealthCheckRequest(service=name) for name in names]
        for request in requests:
            assert (await stub.Check(request)).status == states.SERVING
        unknown = await failure(stub.Check(health_pb2.HealthCheckRequest(service="none")))
        assert unknown.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(requests[0])
        assert (await watch.read()).status == states.SERVING
        application.app.stop()
        assert (await watch.read()).status == states.NOT_SERVING
        assert (await stub.Check(requests[0])).status == states.NOT_SERVING
        inference = InferenceStub(channel)
        assert not (await inference.ServerReady(pb.ServerReadyRequest())).ready


async def test_reflection_describes_the_services(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A client without the .proto file finds the methods and their messages."""

    def describe(address: str) -> tuple[list[str], list[str], str]:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(database)
            service = pool.FindServiceByName("inference.GRPCInferenceService")
            method = service.FindMethodByName("ModelInfer")
            return (
                list(database.get_services()),
                [each.name for each in service.methods],
                method.input_type.full_name,
            )

    async with serving(colour_store.root, caplog):
        address = next(
            record.getMessage().rpartition(" ")[2]
            for record in caplog.records
            if record.getMessage().startswith("gRPC server running on")
        )
        services, methods, message = await asyncio.to_thread(describe, address)
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)
    assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= set(methods)
    assert message == "inference.ModelInferRequest"
