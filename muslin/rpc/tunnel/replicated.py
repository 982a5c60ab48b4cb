"""Calling one of several replicas, each through a tunnel of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc

from muslin.api.rpc.v1 import tunnel_pb2
from muslin.rpc.replicas import Replica, Replicas
from muslin.rpc.tunnel.client import Tunnel
from muslin.rpc.tunnel.context import Pairs
from muslin.tasks import TaskSet

__all__ = ["PATIENCE", "Tunnels", "tunnel_to"]

PATIENCE = 4.0
"""Seconds for which one replica is waited for, if another may be asked the same: it may be alive, serve as far as it
knows, and still have lost the way to its store. As long as a frozen one takes to be told."""
_ELSEWHERE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


AGE = 300.0
"""Seconds after which a tunnel is followed by a new one: a server that ends a connection, for its age or because it is
going, first tells, which a stream does not hear of, but the next stream is over another connection. Less than the time
that the server then gives streams."""


class Tunnels:
    """As a Tunnel, to the replica that is best when a call begins."""

    def __init__(self, replicas: Replicas, age: float = AGE) -> None:
        """The replicas stay the caller's, and must live longer."""
        self._replicas, self._age = replicas, age
        self._open: dict[Replica, _Open] = {}
        self._tasks = TaskSet()

    async def call(self, method: str, request: bytes, *, timeout: float, metadata: Pairs = (),
                   again: bool = False) -> tunnel_pb2.Answer:
        """As Tunnel.call. If the call may be made `again`, and one replica is UNAVAILABLE, each other one is asked.

        So is one that serves after one that has said nothing for PATIENCE; the last has all the time that is left.

        Raises:
            grpc.aio.AioRpcError: that of the replica that was asked last.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + timeout
        tried: set[Replica] = set()
        while True:
            replica = self._replicas.pick(tried)
            assert replica is not None, "there is one more than were tried"
            tried.add(replica)
            left = max(ends - loop.time(), 0.001)
            other = self._replicas.pick(tried) if again else None
            limit = min(left, PATIENCE) if other is not None and other.serves else left
            try:
                return await self._tunnel(replica).call(method, request, timeout=limit, metadata=metadata)
            except grpc.aio.AioRpcError as problem:
                if not (other is not None and problem.code() in _ELSEWHERE and loop.time() < ends):
                    raise

    def _tunnel(self, replica: Replica) -> Tunnel:
        found, now = self._open.get(replica), asyncio.get_running_loop().time()
        if found is None or found.line is not replica.line or now - found.born > self._age:
            if found is not None:  # what is on its way in it comes back through it
                self._tasks.spawn(f"finish {replica.target}", found.tunnel.finish())
            found = self._open[replica] = _Open(Tunnel(replica.channel), replica.line, now)
        return found.tunnel

    async def aclose(self) -> None:
        """End all; calls on their way fail with CANCELLED."""
        await self._tasks.aclose()
        for found in self._open.values():
            await found.tunnel.aclose()


@dataclass(frozen=True, slots=True)
class _Open:
    """A tunnel, the line that it is over, and the loop's time when it was made."""

    tunnel: Tunnel
    line: object
    born: float


def tunnel_to(channel: grpc.aio.Channel) -> Tunnel | Tunnels:
    """What calls through a tunnel over the channel: one, or one to each replica behind it."""
    replicas = getattr(channel, "replicated", None)
    return Tunnels(replicas) if isinstance(replicas, Replicas) else Tunnel(channel)
