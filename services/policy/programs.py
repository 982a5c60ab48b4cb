"""The API that nodes enforce from: a node's program, whole or from where the node is; then deltas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import grpc

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import InvalidArgument, TimedOut
from services.policy import metrics
from services.policy.encoding import Encoder, Outgoing
from services.policy.hub import Hub
from services.policy.streams import Stream, Streams
from services.policy.turns import Turns

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_FIRST = 10.0
"""Seconds that a node has to say its name."""
_AT_ONCE, _TURN = 32, 1.0
"""Nodes that are sent their first message at once, and seconds after which one that is slow to read does not count: all
nodes come at once when a replica starts, and each message can be megabytes until it is sent."""

Requests = AsyncIterator[policy_pb2.SubscribeRequest]


class Programs:
    """Streams to nodes. A slow one gets what it missed as one delta, and holds up nobody."""

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub, self._streams = hub, streams
        self._encoder, self._beginnings = Encoder(), Turns(_AT_ONCE, _TURN)

    def register(self, server: grpc.aio.Server) -> None:
        """Serve muslin.policy.v1.Programs; as generated code does it, but for messages that are bytes already."""
        subscribe = grpc.stream_stream_rpc_method_handler(
            self.Subscribe, request_deserializer=policy_pb2.SubscribeRequest.FromString,
            response_serializer=Outgoing.take)
        service = policy_pb2.DESCRIPTOR.services_by_name["Programs"].full_name
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Subscribe": subscribe}),))

    async def Subscribe(self, request_iterator: Requests,
                        context: Context) -> AsyncIterator[Outgoing]:
        """Send nothing until all sources are complete; then the program, whole or from where the node is; then changes.

        Nothing is made before it can be sent: of a node that does not read, what is in the line is all there is.
        """
        try:
            first = await asyncio.wait_for(anext(aiter(request_iterator), None), _FIRST)
        except TimeoutError:
            raise TimedOut(f"node: the first message, which names the node, did not come within {_FIRST:g} s") from None
        if first is None or not first.node:
            raise InvalidArgument("node: the first message must name the node")
        await self._hub.ready.wait()
        stream = self._open(first.node, first.resume)
        # The acknowledgements come whenever the node likes, also while it is being written to.
        reader = asyncio.create_task(_read(stream, request_iterator), name=f"acknowledgements of {first.node}")
        try:
            while True:
                await stream.subscription.changed.wait()
                async with nullcontext() if stream.revision else self._beginnings.turn():
                    if (sent := stream.next()) is not None:
                        update, kind = sent
                        metrics.MESSAGES.labels(kind).inc()
                        metrics.SENT.labels(first.node).set(stream.revision)
                        yield Outgoing(self._encoder.response(update, stream.revision, snapshot=kind == "snapshot",
                                                              resume=stream.resume))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._close(stream)

    def _open(self, node: str, resume: str) -> Stream:
        stream = self._streams.open(node, resume)
        metrics.SUBSCRIPTIONS.inc()
        log.info("subscribed node=%s resumed=%s", node, stream.resumed)
        return stream

    def _close(self, stream: Stream) -> None:
        self._streams.close(stream)
        metrics.SUBSCRIPTIONS.dec()
        if self._streams.of(stream.node) is None:
            for gauge in (metrics.SENT, metrics.ENFORCED):
                try:
                    gauge.remove(stream.node)
                except KeyError:
                    pass  # it never got that far
        log.info("unsubscribed node=%s revision=%d", stream.node, stream.revision)


async def _read(stream: Stream, requests: Requests) -> None:
    """Note acknowledgements until the node hangs up."""
    async for request in requests:
        metrics.ENFORCED.labels(stream.node).set(request.enforced_revision)
        for age in stream.acknowledge(request.enforced_revision):
            metrics.ENFORCE_SECONDS.observe(age)
