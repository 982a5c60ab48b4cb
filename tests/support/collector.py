"""A collector of traces: the real protocol (OTLP by gRPC) on a unix socket, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

__all__ = ["Collector", "Span", "collecting"]


@dataclass(frozen=True)
class Span:
    """One span, ids as hex digits, times in Unix ns."""

    service: str
    name: str
    trace: str
    own: str
    parent: str
    began: int
    ended: int
    failed: bool


@dataclass
class Collector:
    """What was received."""

    spans: list[Span] = field(default_factory=list)
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, enough: Callable[[list[Span]], bool], patience: float = 60.0) -> list[Span]:
        """All spans, once they are enough. Raises AssertionError with what there is if they never are."""
        try:
            async with asyncio.timeout(patience), self.came:
                await self.came.wait_for(lambda: enough(self.spans))
        except TimeoutError:
            raise AssertionError("\n".join(map(str, self.spans))) from None
        return list(self.spans)

    async def take(self, request: Any) -> None:
        """Keep what an Export says."""
        async with self.came:
            for each in request.resource_spans:
                service = next(item.value.string_value for item in each.resource.attributes
                               if item.key == "service.name")
                self.spans += [
                    Span(service, span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(),
                         span.start_time_unix_nano, span.end_time_unix_nano, span.status.code == 2)
                    for scope in each.scope_spans for span in scope.spans]
            self.came.notify_all()


@asynccontextmanager
async def collecting(path: Path) -> AsyncIterator[Collector]:
    """A collector on a unix socket, until the end of the block."""
    collector = Collector()

    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            await collector.take(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]  # generated code
        Servicer(), server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
