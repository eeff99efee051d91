"""Cross-origin requests: which web pages of other hosts may call the service (Fetch, CORS)."""

from collections.abc import Sequence
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE")
_EXPOSED_HEADERS: Final = (
    *("Model-Name", "Model-Version", "Model-Digest", "Server-Timing", "X-Request-Id"),
    *("Retry-After", "WWW-Authenticate", "traceparent"),
    *("Embedding-Dims", "Inference-Header-Content-Length"),
)


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Answer preflight requests, and add CORS headers to the responses of `app`.

    No cookies are allowed: API keys are sent in the header `Authorization`.
    """
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=("*",),
        expose_headers=_EXPOSED_HEADERS,
    )


def is_cross_origin(scope: Scope) -> bool:
    """Whether a browser sent the request for a page: only then does it have an `Origin`."""
    return any(name == b"origin" for name, _ in scope["headers"])


def is_preflight(scope: Scope) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
