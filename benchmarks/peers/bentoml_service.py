"""BentoML with adaptive batching: one batchable endpoint; images are files of a multipart form."""

import bentoml
from PIL import Image
from user_code import MAX_BATCH_SIZE, WORKERS, TopClassModel, to_pixels


@bentoml.service(workers=WORKERS, traffic={"timeout": 30})
class Service:
    """One image per request, batched by the dispatcher."""

    def __init__(self) -> None:
        self.classify = TopClassModel()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=10000)
    def predict(self, images: list[Image.Image]) -> list[dict[str, float]]:
        return self.classify([to_pixels(image) for image in images])
