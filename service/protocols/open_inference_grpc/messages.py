"""From inference messages to requests, and from results to messages."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray

from service.engine.classification import Classification
from service.engine.loaded_version import LoadedVersion
from service.http.request_body import INLINE_BYTES
from service.protocols.open_inference.images import read_images
from service.protocols.open_inference.infer_request import InferRequest
from service.protocols.open_inference.outputs import build_output
from service.protocols.open_inference.parameters import (
    MAX_ID_LENGTH,
    read_outputs,
    read_schedule,
    too_long_id,
)
from service.protocols.open_inference.tensors import BYTES, UINT8, InputTensor, malformed
from service.protocols.open_inference_grpc.open_inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)

M = TypeVar("M", bound=Message)
_SLICE: Final = 64 * 1024
"""Numbers that are copied at once, so that the event loop gets Python's global lock in between."""


def parse_message(message: M, data: bytes) -> M:
    """Fill a message from its encoded form. Raises BadRequestError."""
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise malformed(f"the message is not a {message.DESCRIPTOR.name}") from None
    return message


async def read_infer_message(
    message: ModelInferRequest, loaded: LoadedVersion, max_images: int
) -> InferRequest:
    """Parse a request, in a thread if it has many numbers. Raises ServiceError."""
    if message.raw_input_contents or message.ByteSize() <= INLINE_BYTES:
        return _read(message, loaded, max_images)
    return await asyncio.to_thread(_read, message, loaded, max_images)


def build_infer_message(
    infer: InferRequest, results: Sequence[Classification], loaded: LoadedVersion
) -> ModelInferResponse:
    """The response. All outputs are raw."""
    message = ModelInferResponse(
        model_name=loaded.version.model,
        model_version=str(loaded.version.number),
        id=infer.request_id or "",
    )
    for requested in infer.outputs:
        tensor = build_output(requested.name, requested.classes, results, loaded)
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.to_bytes())
    return message


def read_parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    """The values of parameters; those without a value are left out."""
    return {
        name: getattr(each, field)
        for name, each in parameters.items()
        if (field := each.WhichOneof("parameter_choice"))
    }


def _read(message: ModelInferRequest, loaded: LoadedVersion, max_images: int) -> InferRequest:
    if len(message.id) > MAX_ID_LENGTH:
        raise too_long_id()
    requested = [(output.name, read_parameters(output.parameters)) for output in message.outputs]
    return InferRequest(
        read_images(list(_read_tensors(message)), loaded, max_images),
        read_outputs(requested, loaded, binary=True),
        read_schedule(read_parameters(message.parameters)),
        message.id,
    )


def _read_tensors(message: ModelInferRequest) -> Iterable[InputTensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise malformed(
            f"`raw_input_contents` must have one entry for each of the {len(message.inputs)} "
            f"inputs, got {len(raw)}"
        )
    for number, each in enumerate(message.inputs):
        tensor = InputTensor(each.name, each.datatype, list(each.shape))
        if raw:
            if each.HasField("contents"):
                raise malformed("`contents` and `raw_input_contents` exclude each other")
            yield InputTensor(each.name, each.datatype, tensor.shape, memoryview(raw[number]))
        elif each.datatype == BYTES:
            values: Any = each.contents.bytes_contents
            yield InputTensor(each.name, each.datatype, tensor.shape, values=list(values))
        elif each.datatype == UINT8:
            numbers = _read_numbers(each.contents.uint_contents)
            yield InputTensor(each.name, each.datatype, tensor.shape, values=numbers)
        else:
            yield tensor


def _read_numbers(numbers: Sequence[int]) -> NDArray[np.uint8]:
    parts = [np.empty(0, np.uint8)]
    for start in range(0, len(numbers), _SLICE):
        part = np.array(numbers[start : start + _SLICE], np.uint32)
        if (part > 255).any():
            raise malformed(f"each number must be from 0 to 255 for the datatype {UINT8}")
        parts.append(part.astype(np.uint8))
    return np.concatenate(parts)
