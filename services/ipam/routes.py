"""Which node has which addresses, told to the nodes that route to each other.

A block is on the node that it has the affinity of. An address whose holder is on another node, borrowed or left in a
block that is nobody's any more, has a route of its own. Nothing is worked out before somebody wants to know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable

from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Corrupt
from muslin.etcd import keys
from muslin.latest import Latest
from services.ipam import blocks
from services.ipam.blocks import Block
from services.ipam.pools import Pool
from services.ipam.view import View

__all__ = ["Routes"]

log = logging.getLogger(__name__)

MESSAGE = 500
"""Routes in one message, at most."""
_TURN = 16
"""Blocks that are looked at before others get a turn: there may be very many, with 64 holders each."""
_ALL = ""
"""The key of all pools."""


class Routes:
    """The routes of one view, once they are followed."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._latest: Latest[str, ipam_pb2.Route | ipam_pb2.Pools] = Latest()
        self._known: dict[str, Block] = {}
        self._single: dict[str, dict[int, str]] = {}
        """By block, the CIDRs of the addresses that have a route of their own, by ordinal."""
        self._followed = self._complete = False
        self._beginning = asyncio.Lock()

    def changed(self, touched: Iterable[str]) -> None:
        """The view has followed the store; these keys have changed."""
        if not self._followed:
            return
        for key in touched:
            if key.startswith(keys.IPAM_BLOCKS):
                try:
                    self._look(keys.parse_block(key))
                except Corrupt:
                    continue  # the view has said so
            elif key.startswith(keys.IPAM_POOLS):
                self._look_at_pools()

    async def watch(self) -> AsyncGenerator[ipam_pb2.WatchRoutesResponse, None]:
        """All pools and routes, and then what changes."""
        await self._begin()
        with self._latest.reader() as reader:
            snapshot = True
            while True:
                changed = reader.take(MESSAGE)
                # A snapshot in several messages is complete with the last of them.
                complete = snapshot and len(changed) < MESSAGE
                all_pools = changed.get(_ALL)
                yield ipam_pb2.WatchRoutesResponse(
                    routes=[route for route in changed.values() if isinstance(route, ipam_pb2.Route)],
                    gone=[cidr for cidr, route in changed.items() if route is None],
                    pools=all_pools if isinstance(all_pools, ipam_pb2.Pools) else None, snapshot_complete=complete)
                snapshot = snapshot and not complete
                if not snapshot:
                    await reader.moved()

    async def _begin(self) -> None:
        """Work out everything, for the first one who asks."""
        async with self._beginning:
            if self._complete:
                return
            self._followed = True  # what changes meanwhile is looked at, too
            self._look_at_pools()
            for number, (cidr, _) in enumerate(self._view.all_blocks()):
                self._look(cidr)
                if number % _TURN == 0:
                    await asyncio.sleep(0)
            self._complete = True

    def _look_at_pools(self) -> None:
        self._latest.put(_ALL, ipam_pb2.Pools(pools=map(_pool, self._view.pools())))

    def _look(self, cidr: str) -> None:
        """A block may have changed. Those of its holders that have not are not looked up again."""
        stored = self._view.block(cidr)
        old, new = self._known.get(cidr), stored.value
        if old is new or (new is None and stored.revision):  # a damaged block is where it was
            return
        if new is None:
            del self._known[cidr]
            for single in self._single.pop(cidr, {}).values():
                self._latest.put(single, None)
            self._latest.put(cidr, None)
            return
        self._known[cidr] = new
        singles = self._single.get(cidr, {})
        moved = old is None or old.node != new.node
        for ordinal in [ordinal for ordinal in singles if ordinal not in new.held]:
            self._latest.put(singles.pop(ordinal), None)
        for ordinal, holder in new.held.items():
            if not moved and old is not None and old.held.get(ordinal) == holder:
                continue
            known = self._view.handle(holder.handle).value
            address = blocks.address(new, ordinal)
            single = f"{address}/{128 if ':' in address else 32}"
            if known is None or known.node == new.node:
                if singles.pop(ordinal, None):
                    self._latest.put(single, None)
                continue
            singles[ordinal] = single
            self._latest.put(single, ipam_pb2.Route(cidr=single, node=known.node, pool=new.pool))
        if singles:
            self._single[cidr] = singles
        else:
            self._single.pop(cidr, None)
        self._latest.put(cidr, ipam_pb2.Route(cidr=cidr, node=new.node, pool=new.pool) if new.node else None)


def _pool(pool: Pool) -> ipam_pb2.Pool:
    return ipam_pb2.Pool(name=pool.name, cidr=pool.cidr, encapsulation=pool.encapsulation, masquerade=pool.masquerade)
