"""mosec with dynamic batching; with STAGES=2 decoding is a stage, as in its ResNet-50 example."""

import os
import sys
from typing import Any

import msgspec
import numpy as np
from mosec import Server, Worker
from user_code import MAX_BATCH_SIZE, PORT, WORKERS, TopClassModel, decode


class Preprocess(Worker):
    """Bytes to pixels."""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> np.ndarray:
        return decode(data)


class Inference(Worker):
    """Pixels to answers."""

    def __init__(self) -> None:
        self.classify = TopClassModel()

    def forward(self, images: list[np.ndarray]) -> list[dict[str, float]]:
        return self.classify(images)

    def serialize(self, data: dict[str, float]) -> bytes:
        return msgspec.json.encode(data)


class Both(Inference):
    """Bytes to answers."""

    def deserialize(self, data: bytes) -> Any:
        return data

    def forward(self, images: list[bytes]) -> list[dict[str, float]]:
        return self.classify([decode(image) for image in images])


if __name__ == "__main__":
    sys.argv[1:] = [
        "--address",
        "127.0.0.1",
        "--port",
        str(PORT),
        "--timeout",
        "30000",
        "--log-level",
        "warning",
    ]
    server = Server()
    if os.environ["STAGES"] == "2":
        server.append_worker(Preprocess, num=WORKERS)
        server.append_worker(Inference, num=WORKERS, max_batch_size=MAX_BATCH_SIZE, max_wait_time=5)
    else:
        server.append_worker(Both, num=WORKERS, max_batch_size=MAX_BATCH_SIZE, max_wait_time=5)
    server.run()
