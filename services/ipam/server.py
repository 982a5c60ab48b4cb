"""What muslin-ipam serves: its part of the CNI chain, and its own API."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence

import grpc

from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.errors import MuslinError, Unavailable
from muslin.etcd import Etcd, Members, keys
from muslin.etcd.mirror import Change, Mirror
from muslin.rpc import App, Part, Readiness
from services.ipam import admin, pools
from services.ipam.allocator import Allocator
from services.ipam.api import Api
from services.ipam.inventory import ENDPOINT, Inventory
from services.ipam.metrics import PoolGauges
from services.ipam.plugin import Plugin
from services.ipam.reporting import Reporter
from services.ipam.routes import Routes
from services.ipam.upkeep.collector import GRACE
from services.ipam.upkeep.service import COLLECT_INTERVAL, Upkeep, endpoint_sources
from services.ipam.view import View

log = logging.getLogger(__name__)

_LOOK = 0.5
"""Seconds between looks at whether the mirror follows: it announces changes of records, not of its own state."""


_YIELDS = 0.02
"""Seconds for which the mirror may be behind to let assignments go first: they rest on what this process wrote, not on
its echo, and a change of another's that is seen late costs a conflict."""


class IpamApp(App):
    """The address manager on one etcd cluster, with the inventory of the endpoint service at `endpoint`.

    `pool` is the CIDR of the pool that is made if there is none. `collect_grace` are the seconds for which a new handle
    is left alone by the collector, `collect_interval` those between its rounds (0: it only runs when it is asked to).
    """

    name = "muslin-ipam"

    def __init__(self, etcd: Sequence[str] | Members, pool: str, endpoint: str = ENDPOINT, *,
                 collect_grace: float = GRACE, collect_interval: float = COLLECT_INTERVAL) -> None:
        super().__init__()
        self._default = pools.make("default", pool)
        self._etcd = Etcd(etcd)
        self._mirror = Mirror(self._etcd, keys.IPAM, _YIELDS)
        self._view = View(self._mirror.items)
        self._gauges = PoolGauges(self._view)
        self._routes = Routes(self._view)
        self._allocator = Allocator(self._etcd, self._mirror, self._view, self.tasks)
        self.inventory = Inventory(endpoint)
        """What is known of pods, namespaces and nodes. Nothing waits for it to be complete."""
        self.reporter = Reporter(endpoint)
        """Lets users of pods know why they get no address."""
        self.upkeep = Upkeep(self, endpoint_sources(endpoint), self.inventory, grace=collect_grace,
                             interval=collect_interval, clock=self._view.clock)
        """Collects, checks and repairs."""
        self._prepared = False

    async def start(self, readiness: Readiness) -> None:
        """Begin to follow the store. Until that is read, requests are answered UNAVAILABLE."""
        self._mirror.subscribe(self._changed)
        self.tasks.spawn("mirror", self._mirror.run())
        self.tasks.spawn("inventory", self.inventory.run())
        self.tasks.spawn("reports", self.reporter.run())
        self.upkeep.start(self.tasks, self._mirror, lambda: self._view.ours)
        self.tasks.spawn("store", self._follow(readiness.part("store")))

    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Serve muslin.ipam.v1."""
        ipam_pb2_grpc.add_PluginServicer_to_server(Plugin(self), server)
        ipam_pb2_grpc.add_IpamServicer_to_server(Api(self), server)
        return tuple(service.full_name for service in ipam_pb2.DESCRIPTOR.services_by_name.values())

    async def stop(self) -> None:
        """Let go of the store."""
        await self.tasks.aclose()  # its tasks use the store
        await self._etcd.aclose()

    def _changed(self, changes: Sequence[Change], revision: int) -> None:
        touched = [change.key for change in changes]
        self._view.changed(touched, revision)
        self._routes.changed(touched)
        self._gauges.update()

    async def _follow(self, part: Part) -> None:
        """Make the first pool, and keep readiness in step with the mirror."""
        while not self._prepared:
            part.set(False, self._mirror.trouble)
            try:
                await asyncio.wait_for(self._mirror.ready.wait(), _LOOK)
                await admin.create_first(self._etcd, self._default)
                self._prepared = True
                # What was read lives long, and there may be very much of it: collections need not look at it again.
                gc.freeze()
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

    @property
    def view(self) -> View:
        """What is known of the store. Raises Unavailable before it has been read."""
        self._check()
        return self._view

    @property
    def routes(self) -> Routes:
        """Which node has which addresses. Raises Unavailable before the store has been read."""
        self._check()
        return self._routes

    @property
    def mirror(self) -> Mirror:
        """The copy of the store that the view rests on. Raises Unavailable before it has been read."""
        self._check()
        return self._mirror

    def check_serving(self) -> None:
        """Raise Unavailable if the store is not known, or can not be followed now."""
        self._check()
        if self._mirror.trouble:
            raise Unavailable(f"ipam: {self._mirror.trouble}")

    def _check(self) -> None:
        if not self._prepared:
            raise Unavailable(f"ipam: the store has not been read yet: {self._mirror.trouble or 'starting'}")
