"""The address manager's own API.

What it lists comes from the view, once that has caught up with all that was written before the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import InvalidArgument
from muslin.rpc import remaining
from services.ipam import admin, blocks, drain, handles, nodes, pools, ranges, reservations, settings
from services.ipam.batch import Session, wanted
from services.ipam.config import Config
from services.ipam.convert import block_message, config_message, handle_message, pool_message, slot_message
from services.ipam.upkeep.api import UpkeepApi
from services.ipam.view import View

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_TURN = 200
"""Records that are listed before others get a turn: there may be very many."""


class Api(UpkeepApi):
    """The methods, each documented where the service is defined."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app

    async def _current(self) -> View:
        await self._app.allocator.refresh()
        return self._app.view

    # Pools

    async def CreatePool(self, request: ipam_pb2.CreatePoolRequest,
                         context: Context) -> ipam_pb2.CreatePoolResponse:
        """Add a pool."""
        asked = request.pool
        pool = pools.make(
            asked.name, asked.cidr, asked.block_size, disabled=asked.disabled, node_selector=asked.node_selector,
            namespace_selector=asked.namespace_selector,
            cool_down=asked.cool_down_seconds if asked.HasField("cool_down_seconds") else pools.COOL_DOWN,
            encapsulation=asked.encapsulation, masquerade=asked.masquerade if asked.HasField("masquerade") else True)
        await admin.create(self._app.etcd, pool)
        return ipam_pb2.CreatePoolResponse(pool=pool_message(await self._current(), pool))

    async def UpdatePool(self, request: ipam_pb2.UpdatePoolRequest,
                         context: Context) -> ipam_pb2.UpdatePoolResponse:
        """Change what may change of a pool."""
        pool = await admin.update(
            self._app.etcd, request.name,
            disabled=request.disabled if request.HasField("disabled") else None,
            node_selector=request.node_selector if request.HasField("node_selector") else None,
            namespace_selector=request.namespace_selector if request.HasField("namespace_selector") else None,
            cool_down=request.cool_down_seconds if request.HasField("cool_down_seconds") else None,
            encapsulation=request.encapsulation if request.HasField("encapsulation") else None,
            masquerade=request.masquerade if request.HasField("masquerade") else None)
        return ipam_pb2.UpdatePoolResponse(pool=pool_message(await self._current(), pool))

    async def ListPools(self, request: ipam_pb2.ListPoolsRequest,
                        context: Context) -> ipam_pb2.ListPoolsResponse:
        """All pools with their use."""
        view = await self._current()
        return ipam_pb2.ListPoolsResponse(pools=[pool_message(view, pool) for pool in view.pools()])

    async def DeletePool(self, request: ipam_pb2.DeletePoolRequest,
                         context: Context) -> ipam_pb2.DeletePoolResponse:
        """Remove a pool that is not in use."""
        await admin.delete(self._app.etcd, request.name)
        return ipam_pb2.DeletePoolResponse()

    # Reservations and settings

    async def CreateReservation(self, request: ipam_pb2.CreateReservationRequest,
                                context: Context) -> ipam_pb2.CreateReservationResponse:
        """Keep addresses from being handed out."""
        asked = request.reservation
        cidrs, held = await settings.reserve(self._app.etcd, asked.name, asked.cidrs)
        return ipam_pb2.CreateReservationResponse(
            reservation=ipam_pb2.Reservation(name=asked.name, cidrs=cidrs), held=held)

    async def ListReservations(self, request: ipam_pb2.ListReservationsRequest,
                               context: Context) -> ipam_pb2.ListReservationsResponse:
        """All reservations."""
        present = await settings.reservation_list(self._app.etcd)
        return ipam_pb2.ListReservationsResponse(reservations=[
            ipam_pb2.Reservation(name=name, cidrs=cidrs) for name, cidrs in sorted(present.ranges.items())])

    async def DeleteReservation(self, request: ipam_pb2.DeleteReservationRequest,
                                context: Context) -> ipam_pb2.DeleteReservationResponse:
        """Remove one."""
        await settings.unreserve(self._app.etcd, request.name)
        return ipam_pb2.DeleteReservationResponse()

    async def GetConfig(self, request: ipam_pb2.GetConfigRequest, context: Context) -> ipam_pb2.GetConfigResponse:
        """The settings."""
        return ipam_pb2.GetConfigResponse(config=config_message(await settings.config(self._app.etcd)))

    async def SetConfig(self, request: ipam_pb2.SetConfigRequest, context: Context) -> ipam_pb2.SetConfigResponse:
        """Change them."""
        asked = request.config
        stored = await settings.configure(self._app.etcd, Config(
            asked.strict_affinity, asked.max_blocks_per_node, asked.no_automatic_blocks))
        return ipam_pb2.SetConfigResponse(config=config_message(stored))

    # Addresses

    async def Assign(self, request: ipam_pb2.AssignRequest, context: Context) -> ipam_pb2.AssignResponse:
        """Give an attachment its addresses."""
        held = await self._app.allocator.assign(wanted(self._app, request), remaining(context))
        if log.isEnabledFor(logging.INFO):
            log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node,
                     ",".join(a.address for a in held.addresses))
        return ipam_pb2.AssignResponse(handle=handle_message(held))

    async def Release(self, request: ipam_pb2.ReleaseRequest, context: Context) -> ipam_pb2.ReleaseResponse:
        """Free what an attachment holds."""
        return ipam_pb2.ReleaseResponse(addresses=await _release(self._app, request.attachment, context))

    async def Batch(self, request_iterator: AsyncIterator[ipam_pb2.BatchRequest],
                    context: Context) -> AsyncIterator[ipam_pb2.BatchResponse]:
        """Both, for many."""
        session = Session(self._app)
        reading = asyncio.create_task(session.read(request_iterator), name="batch requests")
        try:
            async for response in session.responses():
                yield response
        finally:
            reading.cancel()
            session.close()
            await asyncio.wait([reading])

    async def ListBlocks(self, request: ipam_pb2.ListBlocksRequest,
                         context: Context) -> ipam_pb2.ListBlocksResponse:
        """The blocks, of one node or all."""
        view = await self._current()
        listed = [block for block in view.blocks() if request.node in ("", block.node)]
        listed.sort(key=lambda block: (ranges.span(block.cidr).family, blocks.first(block.cidr)))
        response = ipam_pb2.ListBlocksResponse()
        for number, block in enumerate(listed):
            response.blocks.append(block_message(view, block, slots=request.slots))
            if number % 16 == 0:
                await asyncio.sleep(0)
        return response

    async def ListHandles(self, request: ipam_pb2.ListHandlesRequest,
                          context: Context) -> ipam_pb2.ListHandlesResponse:
        """Who holds which address."""
        view = await self._current()
        response = ipam_pb2.ListHandlesResponse()
        for number, (_, known) in enumerate(view.handles()):
            if known.value and request.node in ("", known.value.node):
                response.handles.append(handle_message(known.value))
            if number % _TURN == 0:
                await asyncio.sleep(0)
        return response

    async def WatchRoutes(self, request: ipam_pb2.WatchRoutesRequest,
                          context: Context) -> AsyncIterator[ipam_pb2.WatchRoutesResponse]:
        """Which node has which addresses, and then what changes."""
        async for response in self._app.routes.watch():
            yield response

    async def Lookup(self, request: ipam_pb2.LookupRequest, context: Context) -> ipam_pb2.LookupResponse:
        """All that is known of an address."""
        try:
            address = ranges.text(*ranges.number(request.address))
        except ValueError as problem:
            raise InvalidArgument(f"address: {problem}; write 192.168.0.1 or fd00::1") from None
        view = await self._current()
        response = ipam_pb2.LookupResponse(reservation=reservations.of(view.index.reserved.record, address))
        if (pool := view.pool_of(address)) is None:
            return response
        response.pool = pool.name
        block = view.block(pools.block_of(pool, address)).value
        if block is None or (ordinal := blocks.ordinal_of(block, address)) is None:
            return response
        response.block.CopyFrom(block_message(view, block, slots=False))
        if slot := slot_message(view, block, ordinal):
            response.slot.CopyFrom(slot)
        if (holder := block.held.get(ordinal)) and (handle := view.handle(holder.handle).value):
            response.handle.CopyFrom(handle_message(handle))
        return response

    # Nodes

    async def ReleaseAffinity(self, request: ipam_pb2.ReleaseAffinityRequest,
                              context: Context) -> ipam_pb2.ReleaseAffinityResponse:
        """Take a node's affinity from its blocks, or from one."""
        deleted, orphaned = await nodes.release_affinity(self._app.etcd, await self._current(), request.node,
                                                         request.cidr)
        return ipam_pb2.ReleaseAffinityResponse(deleted=deleted, orphaned=orphaned)

    async def DrainNode(self, request: ipam_pb2.DrainNodeRequest, context: Context) -> ipam_pb2.DrainNodeResponse:
        """Have a node get nothing new, and give back what it does not use; or have it get something again."""
        view, released = await self._current(), []
        if request.undo:
            await drain.undo(self._app.etcd, view, request.node)
        else:
            released = await drain.drain(self._app.etcd, view, self._app.allocator, request.node, remaining(context))
        (left,) = await self._use(request.node)
        return ipam_pb2.DrainNodeResponse(left=left, released=released)

    async def ListNodes(self, request: ipam_pb2.ListNodesRequest, context: Context) -> ipam_pb2.ListNodesResponse:
        """What each node has."""
        return ipam_pb2.ListNodesResponse(nodes=await self._use(request.node))

    async def _use(self, node: str) -> list[ipam_pb2.NodeUse]:
        """What a node has, or each one that has anything."""
        view, held = await self._current(), []
        for number, (_, known) in enumerate(view.handles()):
            if known.value and node in ("", known.value.node):
                held.append(known.value)
            if number % _TURN == 0:
                await asyncio.sleep(0)
        found = {each.node: each for each in drain.use(view, held) if node in ("", each.node)}
        if node:
            found.setdefault(node, drain.Use(node))
        return [ipam_pb2.NodeUse(**msgspec.structs.asdict(each)) for each in found.values()]

    async def RemoveNode(self, request: ipam_pb2.RemoveNodeRequest,
                         context: Context) -> ipam_pb2.RemoveNodeResponse:
        """Free all that a node that is gone held."""
        handles.check_node(request.node)
        await self._app.upkeep.require_unused(request.node)
        freed, gone = await nodes.remove(self._app.etcd, await self._current(), self._app.allocator, request.node,
                                         remaining(context))
        return ipam_pb2.RemoveNodeResponse(addresses=freed, blocks=gone)


async def _release(app: IpamApp, attachment: cni_pb2.Attachment, context: Context) -> tuple[str, ...]:
    identity = handles.identity(attachment)
    freed = await app.allocator.release(identity, remaining(context))
    log.info("freed attachment=%s addresses=%s", identity, ",".join(freed) or "none")
    return freed
