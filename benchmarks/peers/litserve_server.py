"""LitServe with batching, as its "speed up serving" guide has it: a worker a core, decode in `decode_request`.

Its requests are JSON or forms, so the image comes as the file of a multipart form, which is cheaper than base64.
"""

import litserve
import numpy as np
from fastapi import UploadFile
from user_code import MAX_BATCH_SIZE, PORT, WORKERS, Classifier, decode


class Api(litserve.LitAPI):
    """One image a request."""

    def setup(self, device: str) -> None:  # noqa: ARG002  the interface
        """Once a worker."""
        self.classify = Classifier()

    def decode_request(self, request: UploadFile) -> np.ndarray:
        """Bytes to pixels."""
        return decode(request.file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """The classifier stacks them itself."""
        return list(inputs)

    def predict(self, images: list[np.ndarray]) -> list[dict[str, float]]:
        """One batch."""
        return self.classify(images)

    def unbatch(self, output: list[dict[str, float]]) -> list[dict[str, float]]:
        """They are apart."""
        return output

    def encode_response(self, output: dict[str, float]) -> dict[str, float]:
        """It is JSON."""
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
