"""The address manager, as the commands talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.cli.client import elsewhere, target_of
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.usage import Ranges
from muslin.errors import NotFound
from muslin.rpc import channel, translated

__all__ = ["LONG", "QUICK", "Client", "connected"]

QUICK = 15.0
"""Seconds for a request that reads or writes a few records."""
CONNECT = 2.0
"""Seconds for connecting."""
LONG = 300.0
"""Seconds for one that goes through all of them."""


class Client:
    """Requests to the address manager. Errors come as those of muslin.errors."""

    def __init__(self, ipam: grpc.aio.Channel, endpoint: grpc.aio.Channel) -> None:
        self.stub = ipam_pb2_grpc.IpamStub(ipam)
        self._endpoint = endpoint

    async def pools(self) -> list[ipam_pb2.Pool]:
        """All pools, by name."""
        with translated("ipam: list pools"):
            return list((await self.stub.ListPools(ipam_pb2.ListPoolsRequest(), timeout=QUICK)).pools)

    async def reservations(self) -> list[ipam_pb2.Reservation]:
        """All reservations, by name."""
        with translated("ipam: list reservations"):
            answer = await self.stub.ListReservations(ipam_pb2.ListReservationsRequest(), timeout=QUICK)
        return list(answer.reservations)

    async def blocks(self, reserved: Ranges, node: str = "") -> list[ipam_pb2.Block]:
        """Blocks of a node or of all, by address; with slots if reservations have to be set off against them."""
        with translated("ipam: list blocks"):
            request = ipam_pb2.ListBlocksRequest(node=node, slots=bool(reserved))
            return list((await self.stub.ListBlocks(request, timeout=LONG)).blocks)

    async def lookup(self, address: str) -> ipam_pb2.LookupResponse:
        """What is known of an address."""
        with translated("ipam: look up"):
            return await self.stub.Lookup(ipam_pb2.LookupRequest(address=address), timeout=QUICK)

    async def endpoint(self, attachment: cni_pb2.Attachment) -> endpoint_pb2.WorkloadEndpoint | None:
        """The endpoint record of an attachment, None if there is none."""
        await _reached(self._endpoint)
        endpoints = endpoint_pb2_grpc.EndpointsStub(self._endpoint)
        try:
            with translated("endpoint: get"):
                answer = await endpoints.Get(endpoint_pb2.GetRequest(attachment=attachment), timeout=QUICK)
        except NotFound:
            return None
        return answer.endpoint


@asynccontextmanager
async def connected(where: Where) -> AsyncIterator[Client]:
    """A client. Raises Unavailable if a run directory is meant on which nothing runs."""
    if where.target:
        ipam = endpoint = where.target  # the node daemon passes both on; else the endpoint's is not served there
    else:
        ipam, endpoint = target_of("ipam", where.run), target_of("endpoint", where.run)
    endpoint = elsewhere("endpoint") or endpoint
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(channel(to)) for to in (ipam, endpoint)]
        await _reached(opened[0])
        yield Client(*opened)


async def _reached(connection: grpc.aio.Channel) -> None:
    """Wait for the connection: a channel's single attempt is too short for a busy machine.

    Why there is none, the first request says.
    """
    try:
        await asyncio.wait_for(connection.channel_ready(), CONNECT)
    except TimeoutError:
        pass
