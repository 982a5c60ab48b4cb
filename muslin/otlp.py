"""The one place that OpenTelemetry is imported in. Only `muslin.tracing` imports this, and only where it is wanted."""

from __future__ import annotations

import logging
import socket
import threading
import time

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Status, StatusCode

from muslin import __version__
from muslin import log as logs

__all__ = ["Exporting", "Span"]


class _Ids(RandomIdGenerator):
    """Random ids, but for a span that others know by its own already."""

    def __init__(self) -> None:
        self.trace = self.span = 0

    def generate_span_id(self) -> int:
        return self.span or super().generate_span_id()

    def generate_trace_id(self) -> int:
        return self.trace or super().generate_trace_id()


class Span:
    """A call that is being served. What is called and done meanwhile is below it."""

    def __init__(self, inner: trace.Span) -> None:
        self._inner = inner
        logs.traceparent.set(_header(inner.get_span_context()))

    def end(self, status: str) -> None:
        """It is over, with a gRPC status by name."""
        self._inner.set_attribute("rpc.grpc.status_code", status)
        if status != "OK":
            self._inner.set_status(Status(StatusCode.ERROR, status))
        self._inner.end()


class Exporting:
    """Makes spans, and sends them from a thread of its own. All methods but `stop` return at once."""

    def __init__(self, service: str, endpoint: str) -> None:
        """The collector may be away. Sampling, limits, batches, headers: OpenTelemetry's own variables (OTEL_...)."""
        self._ids = _Ids()
        self._provider = TracerProvider(id_generator=self._ids, shutdown_on_exit=False, resource=Resource.create({
            "service.name": service, "service.version": __version__, "host.name": socket.gethostname()}))
        # Each attempt that fails is a warning otherwise; that spans were lost is an error.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        exporter = OTLPSpanExporter(endpoint, insecure=True if endpoint.startswith("unix:") else None)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("muslin", __version__)

    def stop(self, seconds: float) -> None:
        """Send what is left, for so long at most."""
        # It has no limit of its own: a collector that is away would be tried for half a minute.
        ending = threading.Thread(target=self._provider.shutdown, name="last traces", daemon=True)
        ending.start()
        ending.join(seconds)

    def serving(self, method: str, header: str) -> Span:
        """The span of a call, below that of its traceparent."""
        service, _, name = method[1:].partition("/")
        return Span(self._start(method[1:], header, SpanKind.SERVER, {
            "rpc.system": "grpc", "rpc.service": service, "rpc.method": name}))

    def part(self, header: str, what: str, took: int) -> None:
        """A span that is over and took so many nanoseconds."""
        now = time.time_ns()
        kind = SpanKind.CLIENT if what.startswith("etcd ") else SpanKind.INTERNAL
        self._start(what.partition(" /")[0], header, kind, {"muslin.what": what}, now - took).end(now)

    def invoked(self, header: str, command: str, began: int, parent: str) -> None:
        """The span that a traceparent names, which began at a Unix time in ns and ends now."""
        if not int(header[53:55], 16) & 1:
            return  # it is not sampled
        above = f"00-{header[3:35]}-{parent}-{header[53:55]}" if parent else ""
        self._ids.trace, self._ids.span = int(header[3:35], 16), int(header[36:52], 16)
        try:
            span = self._start(f"muslin {command}", above, SpanKind.SERVER, {"cni.command": command}, began)
        finally:
            self._ids.trace = self._ids.span = 0
        span.end()

    def _start(self, name: str, header: str, kind: SpanKind, attributes: dict[str, str],
               began: int | None = None) -> trace.Span:
        above = Context()
        if header:
            above = trace.set_span_in_context(trace.NonRecordingSpan(trace.SpanContext(
                int(header[3:35], 16), int(header[36:52], 16), is_remote=True,
                trace_flags=trace.TraceFlags(int(header[53:55], 16)))), above)
        return self._tracer.start_span(name, above, kind, attributes, start_time=began)


def _header(context: trace.SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
