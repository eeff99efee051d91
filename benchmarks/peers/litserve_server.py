"""LitServe with batching, set up as in its "speed up serving" guide.

Its requests are JSON or forms. The image is the file of a multipart form, which is cheaper than
base64.
"""

import litserve
import numpy as np
from fastapi import UploadFile
from user_code import MAX_BATCH_SIZE, PORT, WORKERS, TopClassModel, decode


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002  the interface
        self.classify = TopClassModel()

    def decode_request(self, request: UploadFile) -> np.ndarray:
        return decode(request.file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return list(inputs)

    def predict(self, images: list[np.ndarray]) -> list[dict[str, float]]:
        return self.classify(images)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
