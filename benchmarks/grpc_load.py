"""Closed-loop load with gRPC: several coroutines send one encoded image after the other.

Prints one line of JSON with the fields of `wrk.WrkResult`. Messages are serialised once, before the
measurement, and responses are not parsed.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

import grpc
import numpy as np

from service.protocols.open_inference_grpc.open_inference_pb2 import ModelInferRequest

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def message(model: str, image: bytes) -> bytes:
    tensor = ModelInferRequest.InferInputTensor(name="images", datatype="BYTES", shape=[1])
    content = len(image).to_bytes(4, "little") + image
    output = ModelInferRequest.InferRequestedOutputTensor(name="probabilities")
    request = ModelInferRequest(
        model_name=model, inputs=[tensor], outputs=[output], raw_input_contents=[content]
    )
    return request.SerializeToString()


async def load(port: int, messages: list[bytes], calls: int, seconds: float) -> dict[str, float]:
    milliseconds, failed, ends = list[float](), 0, time.perf_counter() + seconds

    async def send(number: int, call: grpc.aio.UnaryUnaryMultiCallable) -> None:
        nonlocal failed
        while (started := time.perf_counter()) < ends:
            number = (number + 1) % len(messages)
            try:
                await call(messages[number])
            except grpc.aio.AioRpcError:
                failed += 1
            else:
                milliseconds.append((time.perf_counter() - started) * 1e3)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)
        await asyncio.gather(*(send(number, call) for number in range(calls)))
    p50, p99 = np.percentile(milliseconds or [float("nan")], (50, 99)).tolist()
    return {
        "answered": len(milliseconds),
        "images_per_second": len(milliseconds) / seconds,
        "p50": p50,
        "p99": p99,
        "failed": failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path, help="folder with the encoded images, named 1, 2, ...")
    parser.add_argument("calls", type=int, help="number of calls in progress at the same time")
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    messages = [message(given.model, path.read_bytes()) for path in sorted(given.folder.iterdir())]
    print(json.dumps(asyncio.run(load(given.port, messages, given.calls, given.seconds))))


if __name__ == "__main__":
    main()
