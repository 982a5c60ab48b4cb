"""The API that nodes enforce from: a node's program, whole or from where the node is; then deltas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import InvalidArgument, TimedOut
from services.policy import metrics
from services.policy.encoding import Encoder
from services.policy.hub import Hub
from services.policy.streams import Stream, Streams

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_FIRST = 10.0
"""Seconds that a node has to say its name."""

Requests = AsyncIterator[policy_pb2.SubscribeRequest]


class Programs(policy_pb2_grpc.ProgramsServicer):
    """Streams to nodes. A slow one gets what it missed as one delta, and holds up nobody."""

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub, self._streams = hub, streams
        self._encoder = Encoder()

    async def Subscribe(self, request_iterator: Requests,
                        context: Context) -> AsyncIterator[policy_pb2.SubscribeResponse]:
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
                if (sent := stream.next()) is not None:
                    update, kind = sent
                    metrics.MESSAGES.labels(kind).inc()
                    metrics.SENT.labels(first.node).set(stream.revision)
                    yield self._encoder.response(update, stream.revision, snapshot=kind == "snapshot",
                                                 resume=stream.resume)
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
