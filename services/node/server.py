"""muslin.node.v1.Node: what the node runs, what it drops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from muslin.api.node.v1 import node_pb2, node_pb2_grpc
from services.node.counters import cause_message, drops_of
from services.node.enforcer import Enforcer
from services.node.flows import connections, flows_of
from services.node.tracing import Tracer

__all__ = ["NodeServer"]

Context = grpc.aio.ServicerContext[Any, Any]


class NodeServer(node_pb2_grpc.NodeServicer):
    """The node daemon's own API."""

    def __init__(self, status: Callable[[], node_pb2.GetStatusResponse], enforcer: Enforcer, tracer: Tracer) -> None:
        """`status` says what the node runs."""
        self._status = status
        self._enforcer = enforcer
        self._tracer = tracer

    async def GetStatus(self, request: node_pb2.GetStatusRequest, context: Context) -> node_pb2.GetStatusResponse:
        """What the node runs and enforces."""
        return self._status()

    async def GetCounters(self, request: node_pb2.GetCountersRequest, context: Context,
                          ) -> node_pb2.GetCountersResponse:
        """What was dropped."""
        found = drops_of(self._enforcer.state, await self._enforcer.drops())
        return node_pb2.GetCountersResponse(
            drops=[each for each in found if request.workload in ("", each.workload)])

    async def GetFlows(self, request: node_pb2.GetFlowsRequest, context: Context) -> node_pb2.GetFlowsResponse:
        """What a pod is connected to."""
        state = self._enforcer.state
        endpoints = state.required(request.workload)
        return flows_of(state, endpoints, await asyncio.to_thread(connections, endpoints))

    async def Trace(self, request: node_pb2.TraceRequest, context: Context) -> AsyncIterator[node_pb2.TraceResponse]:
        """What is dropped, as it happens."""
        async with self._tracer.watching(request.workload) as watch:
            yield node_pb2.TraceResponse()
            while True:
                drop, missed = await watch.next()
                source, destination = drop.addresses
                yield node_pb2.TraceResponse(
                    unix_nanos=drop.unix_nanos, cause=cause_message(drop.cause), rule=drop.rule, source=source,
                    destination=destination, protocol=drop.packet.protocol, source_port=drop.packet.source_port,
                    destination_port=max(0, drop.packet.port), missed=missed)
