"""The API that nodes enforce from: a snapshot of a node's program, then deltas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import InvalidArgument, TimedOut
from services.policy import metrics, wire
from services.policy.hub import Hub, Subscription

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_FIRST = 10.0
"""Seconds that a node has to say its name."""
_REMEMBERED = 64
"""Messages whose time of sending is kept until they are acknowledged."""

Requests = AsyncIterator[policy_pb2.SubscribeRequest]


class Programs(policy_pb2_grpc.ProgramsServicer):
    """Streams to nodes. A slow one gets what it missed as one delta, and holds up nobody."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def Subscribe(self, request_iterator: Requests,
                        context: Context) -> AsyncIterator[policy_pb2.SubscribeResponse]:
        """Send nothing until all sources are complete; then the whole program, then what changes."""
        try:
            first = await asyncio.wait_for(anext(aiter(request_iterator), None), _FIRST)
        except TimeoutError:
            raise TimedOut(f"node: the first message, which names the node, did not come within {_FIRST:g} s") from None
        if first is None or not first.node:
            raise InvalidArgument("node: the first message must name the node")
        await self._hub.ready.wait()
        stream = _Stream(self._hub, first.node)
        # The acknowledgements come whenever the node likes, also while it is being written to.
        reader = asyncio.create_task(stream.read(request_iterator), name=f"acknowledgements of {first.node}")
        try:
            while True:
                await stream.subscription.changed.wait()
                if (message := stream.next()) is not None:
                    yield message
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            stream.close()


class _Stream:
    """The state of one subscription: which revision was sent, which is in the kernel."""

    def __init__(self, hub: Hub, node: str) -> None:
        self._hub, self._node = hub, node
        self._revision = 0
        self._awaited: deque[tuple[int, float]] = deque(maxlen=_REMEMBERED)  # revision, time of sending
        self.subscription: Subscription = hub.subscribe(node)
        metrics.SUBSCRIPTIONS.inc()
        log.info("subscribed node=%s", node)

    def next(self) -> policy_pb2.SubscribeResponse | None:
        """What there is to send now."""
        update, kind = self._hub.take(self.subscription)
        if kind != "snapshot" and not update:  # changes that cancelled each other out
            return None
        self._revision += 1
        self._awaited.append((self._revision, time.monotonic()))
        metrics.MESSAGES.labels(kind).inc()
        metrics.SENT.labels(self._node).set(self._revision)
        return wire.subscribe_response(update, self._revision, snapshot=kind == "snapshot")

    async def read(self, requests: Requests) -> None:
        """Note acknowledgements until the node hangs up."""
        async for request in requests:
            revision = request.enforced_revision
            metrics.ENFORCED.labels(self._node).set(revision)
            while self._awaited and self._awaited[0][0] <= revision:
                metrics.ENFORCE_SECONDS.observe(time.monotonic() - self._awaited.popleft()[1])

    def close(self) -> None:
        """Let go of the subscription."""
        self._hub.unsubscribe(self.subscription)
        metrics.SUBSCRIPTIONS.dec()
        if not self._hub.subscribed(self._node):
            for gauge in (metrics.SENT, metrics.ENFORCED):
                try:
                    gauge.remove(self._node)
                except KeyError:
                    pass  # it never got that far
        log.info("unsubscribed node=%s revision=%d", self._node, self._revision)
