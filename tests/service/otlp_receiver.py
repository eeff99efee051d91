"""A server that receives spans over OTLP/HTTP, as a collector does."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from operating import eventually


class Spans:
    """The spans that have arrived, and the resource that sent the last ones."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.spans: list[Any] = []
        self.resource: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, body: bytes) -> None:
        with self._lock:
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resource = attributes_of(group.resource)
                self.spans += [span for scope in group.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        with self._lock:
            return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[Any]:
        eventually(lambda: len(self.named(name)), count)
        return self.named(name)

    def children(self, parent: Any) -> dict[str, Any]:
        """By name."""
        with self._lock:
            return {span.name: span for span in self.spans if span.parent_span_id == parent.span_id}


def attributes_of(described: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value"))
        for each in described.attributes
    }


@contextmanager
def receiving() -> Iterator[Spans]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            spans.add(gzip.decompress(body) if self.headers["content-encoding"] else body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    spans = Spans(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
