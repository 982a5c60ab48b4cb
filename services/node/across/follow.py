"""What other services say of nodes and addresses, followed; and saying where this node is.

What was known last counts while a service can not be reached: its silence is no reason to take a way away.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import random
from collections.abc import Callable, Mapping
from typing import Protocol

import grpc

from muslin import __version__
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.errors import MuslinError, from_status
from muslin.rpc import translated
from muslin.rpc.identity import NODE_METADATA
from services.node.across.plan import Encapsulation, Host, Pool, Route
from services.node.netlink.network import IPAddress

__all__ = ["Announcer", "Hosts", "Routes"]

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two attempts: doubled each time, with jitter. Short: ways are to be right soon after a restart."""

SESSION_SECONDS = 3600.0
"""Deadline of a stream; a new one begins with a snapshot."""

CALL_SECONDS = 3.0

_MODES = frozenset(map(str, Encapsulation))


class Followed(Protocol):
    """One thing that is followed."""

    complete: bool
    current: bool

    async def session(self) -> None:
        """One stream, to its end. Raises grpc.aio.AioRpcError."""


async def follow(what: str, followed: Followed, moved: Callable[[], None]) -> None:
    """Follow for ever; `moved` is called when it is no longer followed."""
    pause = FIRST_PAUSE
    while True:
        try:
            await followed.session()
            problem = "the stream ended"
        except grpc.aio.AioRpcError as error:
            failure = from_status(error.code(), error.details() or "")
            problem = f"{type(failure).__name__}: {failure}"
        if followed.current:
            pause = FIRST_PAUSE
        followed.current = False
        moved()
        log.debug("%s are not followed: %s; next attempt in about %.1f s", what, problem, pause)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  jitter, not a secret
        pause = min(2 * pause, LONGEST_PAUSE)


def _session_seconds() -> float:
    return SESSION_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311  jitter, not a secret


class Hosts:
    """Where other nodes are, as the endpoint service knows it.

    Attributes:
        known: by name; this node, too.
        complete: whether all have been told once.
        current: whether they are being followed.
    """

    def __init__(self, node: str, channel: grpc.aio.Channel, moved: Callable[[], None]) -> None:
        self._stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
        self._metadata = ((NODE_METADATA, node),)
        self._moved = moved
        self.known: Mapping[str, Host] = {}
        self.complete = self.current = False

    async def session(self) -> None:
        """One stream."""
        call = self._stub.WatchHosts(
            endpoint_pb2.WatchHostsRequest(), timeout=_session_seconds(), metadata=self._metadata)
        known: dict[str, Host] = {}
        snapshot = True
        async for message in call:
            for each in message.hosts:
                known[each.node] = _host(each)
            for node in message.forgotten:
                known.pop(node, None)
            snapshot = snapshot and not message.snapshot_complete
            if not snapshot:
                self.known, self.complete, self.current = dict(known), True, True
                self._moved()


class Routes:
    """Which node has which addresses, as the address manager knows it.

    Attributes:
        known: by CIDR.
        pools: all of them.
        complete, current: as of Hosts.
    """

    def __init__(self, node: str, channel: grpc.aio.Channel, moved: Callable[[], None]) -> None:
        self._stub: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        self._metadata = ((NODE_METADATA, node),)
        self._moved = moved
        self.known: dict[str, Route] = {}
        self.pools: tuple[Pool, ...] = ()
        self.complete = self.current = False

    async def session(self) -> None:
        """One stream."""
        call = self._stub.WatchRoutes(
            ipam_pb2.WatchRoutesRequest(), timeout=_session_seconds(), metadata=self._metadata)
        known: dict[str, Route] = {}
        pools: tuple[Pool, ...] = ()
        snapshot = True
        async for message in call:
            for each in message.routes:
                known[each.cidr] = Route(ipaddress.ip_network(each.cidr), each.node, each.pool)
            for cidr in message.gone:
                known.pop(cidr, None)
            if message.HasField("pools"):
                pools = tuple(map(_pool, message.pools.pools))
            snapshot = snapshot and not message.snapshot_complete
            if not snapshot:
                self.known, self.pools, self.complete, self.current = known, pools, True, True
                self._moved()


class Announcer:
    """Says where this node is, again and again."""

    def __init__(self, node: str, channel: grpc.aio.Channel, ttl: float) -> None:
        """`ttl` is how many seconds the node counts as present after it has been said."""
        self._stub: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
        self._node, self._ttl = node, ttl
        self._lease = 0
        self._changed = asyncio.Event()
        self._addresses: Mapping[int, IPAddress] | None = None
        self._trouble = ""

    def say(self, addresses: Mapping[int, IPAddress], trouble: str) -> None:
        """Say this from now on: where the node is, and why it can not serve now, if it can not."""
        if addresses != self._addresses or trouble != self._trouble:
            self._addresses, self._trouble = dict(addresses), trouble
            self._changed.set()

    async def run(self) -> None:
        """Say it for ever, once it is known."""
        pause = FIRST_PAUSE
        await self._changed.wait()
        while True:
            self._changed.clear()
            try:
                await self._announce()
                pause, rest = FIRST_PAUSE, self._ttl / 4
            except MuslinError as error:
                log.debug("can not announce this node: %s", error)
                rest = pause * random.uniform(0.5, 1.5)  # noqa: S311  jitter, not a secret
                pause = min(2 * pause, LONGEST_PAUSE)
            try:
                async with asyncio.timeout(rest):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _announce(self) -> None:
        host = endpoint_pb2.Host(node=self._node, addresses=[str(each) for each in (self._addresses or {}).values()],
                                 trouble=self._trouble, version=__version__)
        request = endpoint_pb2.AnnounceRequest(host=host, ttl_seconds=max(2, round(self._ttl)), lease=self._lease)
        with translated("endpoint: announce this node"):
            answer = await self._stub.Announce(request, timeout=CALL_SECONDS, metadata=((NODE_METADATA, self._node),))
        self._lease = answer.lease


def _host(message: endpoint_pb2.Host) -> Host:
    addresses = map(ipaddress.ip_address, message.addresses)
    return Host(message.node, {address.version: address for address in addresses}, message.present)


def _pool(message: ipam_pb2.Pool) -> Pool:
    return Pool(message.name, ipaddress.ip_network(message.cidr),
                Encapsulation(message.encapsulation) if message.encapsulation in _MODES else None, message.masquerade)
