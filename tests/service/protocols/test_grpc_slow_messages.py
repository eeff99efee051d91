"""Clients that send messages slowly use bounded memory, and others are answered."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_server import InferenceStub
from server_process import PATIENCE_SECONDS, ServerProcess, running
from slow_grpc_client import SlowGrpcClient
from test_grpc import labels, raw

from model_store.store import ModelStore
from service.errors import BodyTimeoutError, OverloadedError
from service.protocols.open_inference_grpc.arriving_messages import ArrivalPlaces
from service.settings import MEBIBYTE

MESSAGE_BYTES = 8 * MEBIBYTE
PLACES = 4
CALLS = 16
PATHS = [
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.fixture(scope="module")
def grpc_server(colour_store: ModelStore) -> Iterator[tuple[ServerProcess, int]]:
    limits = ("--max-body-bytes", MESSAGE_BYTES, "--max-upload-bytes", PLACES * MESSAGE_BYTES)
    with running("--store", colour_store.root, "--no-builtin", "--grpc-port", 0, *limits) as server:
        match = server.announced().stderr.wait_for(r"gRPC server running on \S+:(\d+)")
        assert match
        yield server, int(match[1])


def resident_bytes(server: ServerProcess) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("path", PATHS)
def test_messages_that_never_end_hold_bounded_memory(
    grpc_server: tuple[ServerProcess, int], path: str
) -> None:
    """Tries every method. Some calls are read; gRPC holds 64 KiB of each other call."""
    server, port = grpc_server
    before = resident_bytes(server)
    with SlowGrpcClient(port) as client:
        for number in range(CALLS):
            client.start(2 * number + 1, path)
            patience = PATIENCE_SECONDS if number < PLACES else 0.05
            client.send_part(2 * number + 1, MESSAGE_BYTES - 1, MESSAGE_BYTES - 100, patience)
        held = resident_bytes(server) - before
        assert 0 <= client.sent - PLACES * (MESSAGE_BYTES - 100) < (CALLS - PLACES) * MEBIBYTE
        assert held < 2 * PLACES * MESSAGE_BYTES  # without the limit: CALLS * MESSAGE_BYTES


def test_others_are_answered_while_messages_never_end(
    grpc_server: tuple[ServerProcess, int],
) -> None:
    """A slow message is cancelled for one that waits, and its call ends with a status."""
    _, port = grpc_server
    with SlowGrpcClient(port) as client:
        for number in range(PLACES):
            client.start(2 * number + 1, PATHS[0])
            # The server accepts this many bytes only once it reads the message.
            client.send_part(2 * number + 1, MESSAGE_BYTES - 1, MEBIBYTE, PATIENCE_SECONDS)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = InferenceStub(channel).ModelInfer
            assert labels(infer(raw("red"), timeout=PATIENCE_SECONDS)) == ["red"]
        assert client.wait_for_end(1)
        assert client.ended == {1}


@pytest.mark.anyio
async def test_message_has_a_time_limit() -> None:
    places = ArrivalPlaces(1, PATIENCE_SECONDS, 0.01, PATIENCE_SECONDS)
    with pytest.raises(BodyTimeoutError):
        async with places.take():
            await asyncio.Event().wait()
    async with places.take():
        pass


@pytest.mark.anyio
async def test_oldest_message_is_given_up_for_each_one_that_waits() -> None:
    """The grace is 0 s here. The places are free afterwards."""
    places, ended = ArrivalPlaces(2, PATIENCE_SECONDS, None, 0), list[int]()

    async def arrive_for_ever(number: int) -> None:
        with pytest.raises(OverloadedError):
            async with places.take():
                await asyncio.Event().wait()
        ended.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(arrive_for_ever(number))
        await asyncio.sleep(0)
        async with places.take(), places.take():
            pass
    assert ended == [0, 1, 2, 3]


@pytest.mark.anyio
async def test_call_that_finds_no_place_is_rejected() -> None:
    places = ArrivalPlaces(1, 0.01, None, PATIENCE_SECONDS)
    async with places.take():
        with pytest.raises(OverloadedError) as caught:
            async with places.take():
                pass
    assert caught.value.headers["Retry-After"] == "1"


@pytest.mark.anyio
async def test_cancelled_calls_give_their_places_back() -> None:
    places = ArrivalPlaces(1, PATIENCE_SECONDS, None, PATIENCE_SECONDS)

    async def arrive() -> None:
        async with places.take():
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(arrive()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    async with places.take():
        pass
