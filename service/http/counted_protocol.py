"""The HTTP protocol of one of several workers, which count their connections."""

from collections.abc import Callable

from service.http.protocol import BoundedHttpProtocol


def count_connections(
    base: type[BoundedHttpProtocol], on_count: Callable[[int], None]
) -> type[BoundedHttpProtocol]:
    """A protocol that also reports the open connections of this process when one has ended."""

    class CountedHttpProtocol(base):  # type: ignore[misc, valid-type]  # its base is a variable
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            on_count(len(self.connections))

    return CountedHttpProtocol
