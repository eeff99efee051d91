"""Traces of requests for OpenTelemetry, sent over OTLP. Needs the extra `otel`.

A request is one span, with a child for each of its stages: decode, queue and infer. A batch is a
span of the trace of its first request, with a link to every request in it. Spans are made from
times that are measured anyway, after the request has ended.

OpenTelemetry's own variables set the sampling and the attributes of the service, for example
`OTEL_TRACES_SAMPLER`.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from model_store import __version__
from service.engine.queued_image import ImageResult
from service.log_on_change import LogOnChange
from service.prediction.request import ImageOutcome, RequestRecord

FLUSH_SECONDS: Final = 3.0
"""How long the shutdown may wait for a collector that does not answer."""
_NANOSECONDS: Final = 1e9
_PROPAGATOR: Final = TraceContextTextMapPropagator()
Attributes = Mapping[str, str | int]
logger = logging.getLogger(__name__)


class Tracing:
    """Makes the spans of one process and sends them in the background."""

    def __init__(self, endpoint: str) -> None:
        """Start to send.

        Args:
            endpoint: Base URL of a collector that receives OTLP over HTTP.
        """
        own = {"service.name": "resident", "service.version": __version__}
        resource = Resource.create(own | dict(OTELResourceDetector().detect().attributes))
        exporter = _Exporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        if not logger.isEnabledFor(logging.DEBUG):  # it logs each attempt
            logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._tracer = self._provider.get_tracer("resident", __version__)

    def start(
        self, name: str, headers: Mapping[str, str], attributes: Attributes, started: float
    ) -> "RequestTrace":
        """Begin the span of a request.

        Args:
            name: One of few names, without anything that a client chooses.
            headers: By lower-case name; `traceparent` and `tracestate` name the parent.
            attributes: Attributes that are known at its start.
            started: When the request began, on the monotonic clock.
        """
        return RequestTrace(self._tracer, name, headers, attributes, started)

    def close(self) -> None:
        """Send what is left, for at most `FLUSH_SECONDS`. Blocks."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)


class _Exporter(OTLPSpanExporter):
    """Logs once that spans are lost, and once that they arrive again."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint=endpoint)
        self._problems = LogOnChange(logger)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.FAILURE:
            self._problems.report("traces", "traces not delivered; --log-level debug says why")
        elif self._problems.clear("traces"):
            logger.info("traces delivered again")
        return result


class RequestTrace:
    """The span of one request. Used on the event loop, except `add_batch`."""

    def __init__(
        self,
        tracer: trace.Tracer,
        name: str,
        headers: Mapping[str, str],
        attributes: Attributes,
        started: float,
    ) -> None:
        self._tracer = tracer
        # The two clocks are compared once, so that all spans of a request fit together.
        self._epoch = time.time() - time.monotonic()
        self._span = tracer.start_span(
            name,
            _PROPAGATOR.extract(headers),
            trace.SpanKind.SERVER,
            dict(attributes),
            start_time=self._nanoseconds(started),
        )
        self.context = self._span.get_span_context()
        self._batches: dict[int, trace.SpanContext] = {}

    @property
    def is_sampled(self) -> bool:
        return self._span.is_recording()

    @property
    def headers(self) -> dict[str, str]:
        """`traceparent`, and `tracestate` if there is one, for requests to others."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(self._span))
        return carrier

    def add_batch(
        self, others: Sequence["RequestTrace"], began: float, ended: float, images: int
    ) -> None:
        """Record a batch. This is its first sampled request. Called by an instance thread.

        Args:
            others: The sampled request of each image of the batch, this one included.
            began: When the run began, on the monotonic clock.
            ended: When it ended.
            images: Images of the batch.
        """
        requests = {other.context.span_id: other for other in others}
        span = self._tracer.start_span(
            "batch",
            trace.set_span_in_context(self._span),
            attributes={"resident.images": images},
            links=[trace.Link(request.context) for request in requests.values()],
            start_time=self._nanoseconds(began),
        )
        span.end(self._nanoseconds(ended))
        context = span.get_span_context()
        for request in requests.values():
            request._batches[context.span_id] = context  # noqa: SLF001  of the same class

    def add_stages(self, outcomes: Sequence[ImageOutcome], record: RequestRecord) -> None:
        """Record the stages, each from its first image to its last."""
        if not self.is_sampled:
            return
        done = [(each, each.result) for each in outcomes if isinstance(each.result, ImageResult)]
        if not done:
            received = record.started + record.seconds.get("receive", 0.0)
            self._add_stage("decode", received, received + record.seconds["decode"])
            return
        queued = [result.began - result.queue_seconds for _, result in done]
        decoded = [at - each.decode_seconds for at, (each, _) in zip(queued, done, strict=True)]
        began = [result.began for _, result in done]
        ended = [result.began + result.inference_seconds for _, result in done]
        self._add_stage("decode", min(decoded), max(queued))
        self._add_stage("queue", min(queued), max(began))
        links = [trace.Link(context) for context in self._batches.values()]
        self._add_stage("infer", min(began), max(ended), links)

    def end(self, attributes: Attributes, error: str | None = None) -> None:
        """End the span.

        Args:
            attributes: Attributes that are known at its end.
            error: The code of an error of the service; None for a client's error.
        """
        self._span.set_attributes(dict(attributes))
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()

    def _add_stage(
        self, name: str, began: float, ended: float, links: Sequence[trace.Link] = ()
    ) -> None:
        span = self._tracer.start_span(
            name,
            trace.set_span_in_context(self._span),
            links=links,
            start_time=self._nanoseconds(began),
        )
        span.end(self._nanoseconds(ended))

    def _nanoseconds(self, monotonic: float) -> int:
        return int((self._epoch + monotonic) * _NANOSECONDS)
