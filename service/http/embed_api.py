"""The embedding routes: images as for predictions, and their pooled features as the response."""

from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus

from service.http.image_api import ImageApi, ImageApiCall, require_embedding
from service.http.predict_routes import BINARY_MEDIA_TYPE, EMBEDDING_DIMS_HEADER, match_route
from service.http.problem_details import Reply
from service.http.query_params import EmbedParams
from service.http.request_body import parse_body
from service.prediction.embedding_response import encode_embeddings, pack_embeddings
from service.prediction.request import ImageOutcome, PredictRequest


class EmbedCall(ImageApiCall[EmbedParams]):
    """One request for embeddings."""

    def check(self) -> None:
        require_embedding(self._loaded)

    async def read(self, body: bytes, reserve: Callable[[int], None]) -> PredictRequest:
        parsed = await parse_body(self._headers, body, self._limits, reserve)
        return PredictRequest(
            parsed.images,
            timeout_seconds=self.timeout_seconds,
            priority=self.priority,
            names=parsed.names,
            embedding=True,
        )

    async def write(self, request: PredictRequest, outcomes: Sequence[ImageOutcome]) -> Reply:
        if not accepts_binary(self._headers.get("accept", "")):
            return Reply(HTTPStatus.OK, await encode_embeddings(outcomes, request, self._record))
        dims = {EMBEDDING_DIMS_HEADER: str(self._loaded.embedding_dims)}
        return Reply(HTTPStatus.OK, pack_embeddings(outcomes), dims, BINARY_MEDIA_TYPE)


class EmbedApi(ImageApi):
    """The dialect of `/v1/embed` and the routes like it."""

    match = staticmethod(partial(match_route, "embed"))
    params = EmbedParams
    call = EmbedCall


def accepts_binary(accept: str) -> bool:
    """Whether an `Accept` header names BINARY_MEDIA_TYPE."""
    return any(
        entry.partition(";")[0].strip().lower() == BINARY_MEDIA_TYPE for entry in accept.split(",")
    )
