"""The gRPC server, if `SERVICE_GRPC_PORT` is set. The extra `grpc` is imported only then."""

import os
from typing import TYPE_CHECKING, Any

from service.settings import Settings
from service.tls import find_tls_files

if TYPE_CHECKING:
    from service.protocols.open_inference_grpc.server import GrpcServer


class GrpcMissingError(Exception):
    """The extra `grpc` is not installed."""


def build_grpc_server(
    settings: Settings, *, shares_port: bool, **parts: Any
) -> "GrpcServer | None":
    """Build the server, which does not listen yet; None without a port.

    Args:
        settings: The settings of the service.
        shares_port: Whether other workers listen on the same port.
        parts: The other fields of `GrpcParts`.

    Raises:
        GrpcMissingError: The extra `grpc` is not installed.
    """
    if settings.grpc_port is None:
        return None
    # Child processes execute another program, so gRPC need not stop its threads for a fork.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from service.protocols.open_inference_grpc.server import (  # noqa: PLC0415  an extra
            GrpcServer,
        )
        from service.protocols.open_inference_grpc.servicer import (  # noqa: PLC0415  an extra
            GrpcParts,
        )
    except ImportError as error:
        raise GrpcMissingError(
            f"gRPC cannot be imported ({error.name}): pip install '.[grpc]', or unset this setting"
        ) from None
    return GrpcServer(
        GrpcParts(max_images=settings.max_images, **parts),
        settings.host,
        settings.grpc_port,
        settings.max_body_bytes,
        body_timeout_seconds=settings.body_timeout_seconds,
        shares_port=shares_port,
        tls_files=find_tls_files(settings),
    )
