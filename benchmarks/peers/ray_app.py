"""Ray Serve with request batching, one replica per core; each replica decodes and batches."""

import os
import signal
import sys

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from user_code import MAX_BATCH_SIZE, PORT, WORKERS, TopClassModel, decode


@serve.deployment(
    num_replicas=WORKERS, max_ongoing_requests=2 * MAX_BATCH_SIZE, ray_actor_options={"num_cpus": 1}
)
class Model:
    def __init__(self) -> None:
        self.classify = TopClassModel()

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0.005)
    async def predict(self, images: list[np.ndarray]) -> list[dict[str, float]]:
        return self.classify(images)

    async def __call__(self, request: Request) -> dict[str, float]:
        return await self.predict(decode(await request.body()))


def stop(*_: object) -> None:
    """End Ray's own processes too."""
    serve.shutdown()
    ray.shutdown()
    sys.exit()


if __name__ == "__main__":
    ray.init(
        num_cpus=WORKERS,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=os.environ["SCRATCH"],
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Model.bind(), route_prefix="/predict")
    signal.signal(signal.SIGTERM, stop)  # after Ray has set its own
    signal.pause()
