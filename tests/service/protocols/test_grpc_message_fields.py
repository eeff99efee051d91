"""Messages of gRPC that cost much more than their bytes are rejected before they are parsed."""

import logging
from pathlib import Path

import grpc
import pytest
from grpc_server import serving
from test_grpc import failure, labels, raw, typed

from model_store.store import ModelStore
from service.errors import BadRequestError
from service.key_changes import add_key
from service.protocols.open_inference_grpc import open_inference_pb2 as pb
from service.protocols.open_inference_grpc.message_fields import (
    MAX_FIELDS,
    MAX_PIXEL_BYTES,
    check_fields,
)

MAX_IMAGES = 64
MANY = MAX_FIELDS + MAX_IMAGES + 1
REQUEST = pb.ModelInferRequest
TENSOR = REQUEST.InferInputTensor
PARAMETERS = {str(number): pb.InferParameter(bool_param=True) for number in range(MANY // 3)}
COSTLY = {
    "inputs": REQUEST(inputs=[TENSOR()] * MANY),
    "outputs": REQUEST(outputs=[REQUEST.InferRequestedOutputTensor()] * MANY),
    "raw contents": REQUEST(raw_input_contents=[b""] * MANY),
    "parameters": REQUEST(parameters=dict.fromkeys(map(str, range(MANY)), pb.InferParameter())),
    "parameters of three tensors": REQUEST(
        inputs=[TENSOR(parameters=PARAMETERS)] * 2,
        outputs=[REQUEST.InferRequestedOutputTensor(parameters=PARAMETERS)] * 2,
    ),
    "images": typed("BYTES", [MANY], bytes_contents=[b""] * MANY),
    "dimensions": REQUEST(inputs=[TENSOR(shape=[1] * 40_000)] * 2),
    "pixels": typed("UINT8", [1], uint_contents=[1] * (MAX_PIXEL_BYTES + 1)),
    "other numbers": typed("INT64", [1], int64_contents=[1] * 70_000),
    "flags": typed("BOOL", [1], bool_contents=[True] * 70_000),
}


@pytest.mark.parametrize("name", COSTLY)
def test_costly_messages_are_rejected_by_their_encoding(name: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        check_fields(COSTLY[name].SerializeToString(), MAX_IMAGES)
    assert caught.value.code == "malformed_tensor"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x3a", id="no length"),
        pytest.param(b"\xff" * 12, id="endless number"),
        pytest.param(b"\x0b\x0c", id="group"),
    ],
)
def test_malformed_messages_are_rejected(message: bytes) -> None:
    with pytest.raises(BadRequestError):
        check_fields(message, MAX_IMAGES)


def test_ordinary_messages_pass() -> None:
    """Also with a million pixels as numbers, or as many images as allowed."""
    many = MAX_FIELDS + MAX_IMAGES - 10
    for message in (
        raw("red", "blue", id="7", parameters={"timeout": pb.InferParameter(int64_param=1)}),
        typed("UINT8", [1, 1000, 1000, 1], uint_contents=[200] * 1_000_000),
        typed("BYTES", [many], bytes_contents=[b"x"] * many),
        typed("FP32", [1], fp32_contents=[0.5] * 100),
    ):
        check_fields(message.SerializeToString(), MAX_IMAGES)


@pytest.mark.anyio
async def test_rejected_messages_are_invalid_arguments(
    colour_store: ModelStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Costly and malformed messages, alone and in a stream. The next call is answered."""
    async with serving(colour_store.root, caplog) as (_, channel):
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        long = raw("red", parameters=COSTLY["parameters"].parameters)  # otherwise valid
        for content in (long.SerializeToString(), b"\xff" * 12, b"\x0a\x01\xff"):
            error = await failure(infer(content))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        contents = [COSTLY["inputs"].SerializeToString(), raw("red").SerializeToString()]
        answers = [
            pb.ModelStreamInferResponse.FromString(each) async for each in stream(iter(contents))
        ]
        assert len(answers[0].error_message) > 10
        assert labels(answers[1].infer_response) == ["red"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.anyio
async def test_key_is_checked_before_a_message_is_parsed(
    colour_store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_key(tmp_path / "keys.json", "app", ["predict", "manage"])
    async with serving(colour_store.root, caplog, keys=tmp_path / "keys.json") as (_, channel):
        for method in ("ModelInfer", "RepositoryModelLoad", "RepositoryModelUnload"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            error = await failure(call(b"\xff" * 12))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, method
