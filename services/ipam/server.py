"""What muslin-ipam serves: its part of the CNI chain, and its own API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.errors import Corrupt, MuslinError, Unavailable
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Change, Mirror
from muslin.rpc import App, Part, Readiness
from services.ipam import admin, blocks, handles, pools, store
from services.ipam.allocator import Allocator
from services.ipam.blocks import Block
from services.ipam.deadline import remaining
from services.ipam.handles import Handle
from services.ipam.metrics import PoolGauges
from services.ipam.plugin import Plugin
from services.ipam.pools import Pool
from services.ipam.view import View

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_LOOK = 0.5
"""Seconds between looks at whether the mirror follows: it announces changes of records, not of its own state."""


class IpamApp(App):
    """The address manager on one etcd cluster; `pool` is the CIDR of the pool that is made if there is none."""

    name = "muslin-ipam"

    def __init__(self, etcd: Sequence[str], pool: str) -> None:
        super().__init__()
        self._default = pools.make("default", pool)
        self._etcd = Etcd(etcd)
        self._mirror = Mirror(self._etcd, keys.IPAM)
        self._view = View(self._mirror.items)
        self._gauges = PoolGauges(self._view)
        self._allocator = Allocator(self._etcd, self._mirror, self._view, self.tasks)
        self._prepared = False

    async def start(self, readiness: Readiness) -> None:
        """Begin to follow the store. Until that is read, requests are answered UNAVAILABLE."""
        self._mirror.subscribe(self._changed)
        self.tasks.spawn("mirror", self._mirror.run())
        self.tasks.spawn("store", self._follow(readiness.part("store")))

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.ipam.v1."""
        ipam_pb2_grpc.add_PluginServicer_to_server(Plugin(self), server)  # type: ignore[abstract]  # see Plugin
        ipam_pb2_grpc.add_IpamServicer_to_server(_Ipam(self), server)  # type: ignore[abstract]  # not all yet
        return tuple(service.full_name for service in ipam_pb2.DESCRIPTOR.services_by_name.values())

    async def stop(self) -> None:
        """Let go of the store."""
        await self.tasks.aclose()  # its tasks use the store
        await self._etcd.aclose()

    def _changed(self, changes: Sequence[Change], revision: int) -> None:
        self._view.changed([change.key for change in changes], revision)
        self._gauges.update()

    async def _follow(self, part: Part) -> None:
        """Make the first pool, and keep readiness in step with the mirror."""
        while not self._prepared:
            part.set(False, self._mirror.trouble)
            try:
                await asyncio.wait_for(self._mirror.ready.wait(), _LOOK)
                await admin.create_first(self._etcd, self._default)
                self._prepared = True
            except TimeoutError:
                continue
            except MuslinError as problem:
                part.set(False, problem.message)
                await asyncio.sleep(_LOOK)
        while True:
            part.set(not self._mirror.trouble, self._mirror.trouble)
            await asyncio.sleep(_LOOK)

    @property
    def etcd(self) -> Etcd:
        """The store. Raises Unavailable before it has been read."""
        self._check()
        return self._etcd

    @property
    def allocator(self) -> Allocator:
        """The allocator. Raises Unavailable before the store has been read."""
        self._check()
        return self._allocator

    def _check(self) -> None:
        if not self._prepared:
            raise Unavailable(f"ipam: the store has not been read yet: {self._mirror.trouble or 'starting'}")


async def _release(app: IpamApp, attachment: cni_pb2.Attachment, context: Context) -> tuple[str, ...]:
    identity = handles.identity(attachment)
    freed = await app.allocator.release(identity, remaining(context))
    log.info("freed attachment=%s addresses=%s", identity, ",".join(freed) or "none")
    return freed


def _addresses(handle: Handle) -> str:
    return ",".join(a.address for a in handle.addresses)


class _Ipam(ipam_pb2_grpc.IpamServicer):
    """The address manager's own API. What it lists is read from the store, so it is never old."""

    def __init__(self, app: IpamApp) -> None:
        self._app = app

    async def CreatePool(self, request: ipam_pb2.CreatePoolRequest,
                         context: Context) -> ipam_pb2.CreatePoolResponse:
        asked = request.pool
        pool = pools.make(asked.name, asked.cidr, asked.block_size, disabled=asked.disabled)
        await admin.create(self._app.etcd, pool)
        return ipam_pb2.CreatePoolResponse(pool=_pool(pool, 0))

    async def ListPools(self, request: ipam_pb2.ListPoolsRequest,
                        context: Context) -> ipam_pb2.ListPoolsResponse:
        listed = await _records(self._app.etcd, keys.IPAM_POOLS, Pool)
        used = dict.fromkeys((pool.name for pool in listed), 0)
        for block in await _records(self._app.etcd, keys.IPAM_BLOCKS, Block):
            used[block.pool] = used.get(block.pool, 0) + blocks.used(block)
        return ipam_pb2.ListPoolsResponse(pools=[_pool(pool, used[pool.name]) for pool in listed])

    async def DeletePool(self, request: ipam_pb2.DeletePoolRequest,
                         context: Context) -> ipam_pb2.DeletePoolResponse:
        await admin.delete(self._app.etcd, request.name)
        return ipam_pb2.DeletePoolResponse()

    async def Assign(self, request: ipam_pb2.AssignRequest,
                     context: Context) -> ipam_pb2.AssignResponse:
        wanted = handles.of(request.attachment, request.node, request.namespace, request.pod)
        held = await self._app.allocator.assign(wanted, remaining(context))
        log.info("held attachment=%s node=%s addresses=%s", held.identity, held.node, _addresses(held))
        return ipam_pb2.AssignResponse(handle=_handle(held))

    async def Release(self, request: ipam_pb2.ReleaseRequest,
                      context: Context) -> ipam_pb2.ReleaseResponse:
        return ipam_pb2.ReleaseResponse(addresses=await _release(self._app, request.attachment, context))

    async def ListBlocks(self, request: ipam_pb2.ListBlocksRequest,
                         context: Context) -> ipam_pb2.ListBlocksResponse:
        listed = [block for block in await _records(self._app.etcd, keys.IPAM_BLOCKS, Block)
                  if request.node in ("", block.node)]
        listed.sort(key=lambda block: blocks.first(block.cidr))
        return ipam_pb2.ListBlocksResponse(blocks=map(_block, listed))

    async def ListHandles(self, request: ipam_pb2.ListHandlesRequest,
                          context: Context) -> ipam_pb2.ListHandlesResponse:
        listed = await _records(self._app.etcd, keys.IPAM_HANDLES, Handle)
        return ipam_pb2.ListHandlesResponse(handles=[_handle(h) for h in listed if request.node in ("", h.node)])


async def _records(etcd: Etcd, prefix: str, kind: type[store.Record]) -> list[store.Record]:
    """The records under a prefix, sorted by key; damaged ones are left out and logged."""
    found = []
    for record in (await etcd.range(prefix)).items:
        try:
            found.append(store.decode(kind, record.key, record.value))
        except Corrupt as problem:
            log.warning("%s", problem.message)
    return found


def _pool(pool: Pool, used: int) -> ipam_pb2.Pool:
    return ipam_pb2.Pool(name=pool.name, cidr=pool.cidr, block_size=pool.block_size,
                         disabled=pool.disabled or pool.deleting, used=used, size=pools.size(pool))


def _block(block: Block) -> ipam_pb2.Block:
    return ipam_pb2.Block(cidr=block.cidr, pool=block.pool, node=block.node, used=blocks.used(block),
                          size=blocks.size(block))


def _handle(handle: Handle) -> ipam_pb2.Handle:
    attachment = cni_pb2.Attachment(network=handle.network, container_id=handle.container_id, ifname=handle.ifname)
    return ipam_pb2.Handle(attachment=attachment, addresses=[a.address for a in handle.addresses], node=handle.node,
                           namespace=handle.namespace, pod=handle.pod)
