"""The ASGI application: prediction requests go straight to the predictor, all others through FastAPI.

FastAPI's middleware, routing and dependencies cost more than everything that we do for a small image; they stay for the other
routes, and for the document of all.
"""

import logging
import re
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from model_store.errors import InvalidNameError
from model_store.manifest import parse_version
from service.errors import BadRequestError
from service.prediction import Prediction, Predictor
from service.problems import Reply, reply_to

_PREDICT: Final = re.compile(r"/v1/(?:models/([^/]+)/(?:versions/([^/]+)/)?)?predict")
logger = logging.getLogger(__name__)


class Application(FastAPI):
    """FastAPI with a short way for predictions."""

    def __init__(self, predictor: Predictor, **settings: Any) -> None:
        super().__init__(**settings)
        self._predictor = predictor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = _PREDICT.fullmatch(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if found is None:
            await super().__call__(scope, receive, send)
            return
        reply = await self._predict(scope, receive, *found.groups())
        await send({"type": "http.response.start", "status": reply.status, "headers": _encode(reply)})
        await send({"type": "http.response.body", "body": reply.body})

    async def _predict(self, scope: Scope, receive: Receive, model: str | None, version: str | None) -> Reply:
        seen = Prediction()
        try:
            body, headers = await self._predictor.predict(scope, receive, model, _canonical(version), seen)
            return Reply(200, body, headers)
        except Exception as error:  # whatever it is, it has one reply
            return reply_to(error, f"{scope['method']} {scope['path']}")


def _canonical(version: str | None) -> int | None:
    try:
        return None if version is None else parse_version(version)
    except InvalidNameError as error:
        raise BadRequestError(f"path.version: {error}", code="invalid_parameter") from None


def _encode(reply: Reply) -> list[tuple[bytes, bytes]]:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    return [(b"content-type", reply.media_type.encode()), (b"content-length", b"%d" % len(reply.body)), *headers]
