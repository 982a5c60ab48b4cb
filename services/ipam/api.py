"""The address manager's own API."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.errors import Corrupt
from muslin.etcd import Etcd, keys
from services.ipam import admin, blocks, convert, handles, pools, store
from services.ipam.blocks import Block
from services.ipam.deadline import remaining
from services.ipam.handles import Handle, Request
from services.ipam.pools import Pool
from services.ipam.upkeep import api as upkeep

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


async def _release(app: IpamApp, attachment: cni_pb2.Attachment, context: Context) -> tuple[str, ...]:
    identity = handles.identity(attachment)
    freed = await app.allocator.release(identity, remaining(context))
    log.info("freed attachment=%s addresses=%s", identity, ",".join(freed) or "none")
    return freed


def _addresses(handle: Handle) -> str:
    return ",".join(a.address for a in handle.addresses)


class Api(ipam_pb2_grpc.IpamServicer):
    """The address manager's own API. What it lists is read from the store, so it is never old."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app

    async def CreatePool(self, request: ipam_pb2.CreatePoolRequest,
                         context: Context) -> ipam_pb2.CreatePoolResponse:
        """Add a pool."""
        asked = request.pool
        pool = pools.make(asked.name, asked.cidr, asked.block_size, disabled=asked.disabled)
        await admin.create(self._app.etcd, pool)
        return ipam_pb2.CreatePoolResponse(pool=convert.pool(pool, 0))

    async def ListPools(self, request: ipam_pb2.ListPoolsRequest,
                        context: Context) -> ipam_pb2.ListPoolsResponse:
        """All pools with their use."""
        listed = await _records(self._app.etcd, keys.IPAM_POOLS, Pool)
        used = dict.fromkeys((pool.name for pool in listed), 0)
        for block in await _records(self._app.etcd, keys.IPAM_BLOCKS, Block):
            used[block.pool] = used.get(block.pool, 0) + blocks.used(block)
        return ipam_pb2.ListPoolsResponse(pools=[convert.pool(pool, used[pool.name]) for pool in listed])

    async def DeletePool(self, request: ipam_pb2.DeletePoolRequest,
                         context: Context) -> ipam_pb2.DeletePoolResponse:
        """Remove a pool that is not in use."""
        await admin.delete(self._app.etcd, request.name)
        return ipam_pb2.DeletePoolResponse()

    async def Assign(self, request: ipam_pb2.AssignRequest,
                     context: Context) -> ipam_pb2.AssignResponse:
        """Give an attachment its addresses."""
        wanted = handles.of(request.attachment, request.node, request.namespace, request.pod)
        held = await self._app.allocator.assign(Request(wanted), remaining(context))
        log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node, _addresses(held))
        return ipam_pb2.AssignResponse(handle=convert.handle(held))

    async def Release(self, request: ipam_pb2.ReleaseRequest,
                      context: Context) -> ipam_pb2.ReleaseResponse:
        """Free what an attachment holds."""
        return ipam_pb2.ReleaseResponse(addresses=await _release(self._app, request.attachment, context))

    async def ListBlocks(self, request: ipam_pb2.ListBlocksRequest,
                         context: Context) -> ipam_pb2.ListBlocksResponse:
        """The blocks, of one node or all."""
        listed = [block for block in await _records(self._app.etcd, keys.IPAM_BLOCKS, Block)
                  if request.node in ("", block.node)]
        listed.sort(key=lambda block: blocks.first(block.cidr))
        return ipam_pb2.ListBlocksResponse(blocks=map(convert.block, listed))

    async def ListHandles(self, request: ipam_pb2.ListHandlesRequest,
                          context: Context) -> ipam_pb2.ListHandlesResponse:
        """Who holds which address."""
        listed = await _records(self._app.etcd, keys.IPAM_HANDLES, Handle)
        return ipam_pb2.ListHandlesResponse(handles=[convert.handle(h) for h in listed if request.node in ("", h.node)])

    async def Collect(self, request: ipam_pb2.CollectRequest, context: Context) -> ipam_pb2.CollectResponse:
        """Look for what nobody claims."""
        return await upkeep.collect(self._app.upkeep, request)

    async def Check(self, request: ipam_pb2.CheckRequest, context: Context) -> ipam_pb2.CheckResponse:
        """Compare the records with each other and with what is in use."""
        return await upkeep.check(self._app.upkeep)

    async def ReleaseReported(self, request: ipam_pb2.ReleaseReportedRequest,
                              context: Context) -> ipam_pb2.ReleaseReportedResponse:
        """Free what a report says is not in use."""
        return await upkeep.release_reported(self._app.upkeep, request)

    async def Rebuild(self, request: ipam_pb2.RebuildRequest, context: Context) -> ipam_pb2.RebuildResponse:
        """Make records anew from what is in use."""
        return await upkeep.rebuild(self._app.upkeep, request)


async def _records(etcd: Etcd, prefix: str, kind: type[store.Record]) -> list[store.Record]:
    """The records under a prefix, sorted by key; damaged ones are left out and logged."""
    found = []
    for record in (await etcd.range(prefix)).items:
        try:
            found.append(store.decode(kind, record.key, record.value))
        except Corrupt as problem:
            log.warning("%s", problem.message)
    return found
