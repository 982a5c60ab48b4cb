"""The ways between nodes, kept: followed, planned, and brought into the kernel.

Until both services have told everything once nothing is touched: a daemon that starts leaves the ways as they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import grpc

from muslin.errors import MuslinError
from muslin.tasks import TaskSet
from services.node import metrics
from services.node.across import ground
from services.node.across.dead import Dead
from services.node.across.follow import Announcer, Hosts, Routes, follow
from services.node.across.ground import Done, Underlay
from services.node.across.guard import Guard, Wanted
from services.node.across.plan import OVERHEAD, Encapsulation, Own, Plan, plan
from services.node.across.trouble import Trouble
from services.node.kernel import Kernel
from services.node.netlink import links
from services.node.netlink.connection import Connection
from services.node.netlink.network import IPAddress
from services.node.nft.connection import Nftables
from services.node.uplink import OUTSIDE, Uplink

__all__ = ["Across", "Settings", "pause_after"]

log = logging.getLogger(__name__)

VNI, PORT = 4096, 4789
"""Of VXLAN, if nobody says otherwise: an identifier that others do not begin with, and the port of RFC 7348."""

ABSENT_SECONDS = 15.0
"""After which a node counts as absent, if nobody says otherwise."""

LOOK_SECONDS = 3.0
"""Between two looks at everything: what others change is undone by then."""

SETTLE_SECONDS = 0.01
"""After something was told: often more is."""

LOOKING_SHARE = 0.2
"""Of the time, at most, however much is told: with a thousand nodes a look takes its time."""

LONGEST_PAUSE = 0.5
"""Between two looks with something told: one that the kernel keeps waiting is no reason to be late for the next."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How this node takes part."""

    addresses: Mapping[int, IPAddress] = field(default_factory=dict)
    """What others reach it by, by family; empty for the source of its default routes."""
    encapsulation: Encapsulation = Encapsulation.NONE
    """Of pools that say nothing."""
    vni: int = VNI
    port: int = PORT
    absent_seconds: float = ABSENT_SECONDS
    """After which a node that does not announce itself counts as absent; as long again, and it is asked itself."""


class Across:
    """One node's part in it."""

    def __init__(self, node: str, channels: Mapping[str, grpc.aio.Channel], kernel: Kernel, nft: Nftables,
                 prefixes: tuple[str, ...], uplink: Uplink, settings: Settings, trouble: Callable[[], str]) -> None:
        """`channels` by service; `prefixes` begin the names of pods' interfaces.

        `trouble` says why this node can not serve now, empty if it can.
        """
        self._trouble, self._told = trouble, Trouble()
        self._node, self._kernel, self._uplink, self._settings = node, kernel, uplink, settings
        self._guard, self._prefixes = Guard(nft), prefixes
        self._wake = asyncio.Event()
        self._hosts = Hosts(node, channels["endpoint"], self._wake.set)
        self._routes = Routes(node, channels["ipam"], self._wake.set)
        self._announcer = Announcer(node, channels["endpoint"], settings.absent_seconds)
        self._dead = Dead(node, settings.absent_seconds, self._wake.set)
        self._problems: tuple[str, ...] = ()
        self._failure = ""

    @property
    def problems(self) -> list[str]:
        """What can not be reached, and why; for people."""
        return [*self._problems, *((self._failure,) if self._failure else ())]

    async def start(self, tasks: TaskSet) -> None:
        """Begin."""
        if self._settings.encapsulation is not Encapsulation.NONE or await self._kernel.run(_tunnel_there):
            # Until pools are known: pods may be added before, and keep the size of packets that they began with.
            self._uplink.reserve(OVERHEAD[4 if not self._settings.addresses or 4 in self._settings.addresses else 6])
        tasks.spawn("hosts", follow("other nodes", self._hosts, self._wake.set))
        tasks.spawn("routes", follow("routes", self._routes, self._wake.set))
        tasks.spawn("announcing", self._announcer.run())
        tasks.spawn("dead nodes", self._dead.run(lambda: self._hosts.known, lambda: self._hosts.current))
        tasks.spawn("ways", self._run())

    async def _run(self) -> None:
        """Look for ever: at once when something was told, and every few seconds."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            began = loop.time()
            try:
                await self._look()
                self._failure = ""
            except MuslinError as error:
                if str(error) != self._failure:
                    log.warning("can not look after the ways to other nodes: %s", error)
                self._failure = str(error)
            took = loop.time() - began
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
                await asyncio.sleep(pause_after(took))
            except TimeoutError:
                continue

    async def _look(self) -> None:
        # All of one moment: who counts as told while the kernel is looked at is not among these hosts.
        told = self._hosts.complete and self._routes.complete
        hosts = {name: host for name, host in self._hosts.known.items() if name != self._node}
        routes, pools = tuple(self._routes.known.values()), self._routes.pools
        others = [address for host in hosts.values() for address in host.addresses.values()]
        underlay = await self._kernel.run(partial(
            ground.look, outside=OUTSIDE, own=self._settings.addresses.values(), others=others))
        self._uplink.beside(min(underlay.links, default=0))
        addresses = dict(self._settings.addresses) or underlay.addresses
        self._announcer.say(addresses, self._told.told(self._trouble(), asyncio.get_running_loop().time()))
        if not addresses or not told:
            return
        own = Own(self._node, addresses, self._settings.encapsulation)
        wanted = plan(own, hosts, routes, pools, underlay.on_link, self._dead.nodes)
        self._uplink.reserve(OVERHEAD[own.underlay] if wanted.tunnel else 0)
        done = await self._kernel.run(partial(self._apply, own=own, wanted=wanted, underlay=underlay, guard=Wanted(
            self._prefixes, frozenset(pool.network for pool in pools),
            frozenset(pool.network for pool in pools if pool.masquerade), frozenset(others),
            (self._settings.vni, self._settings.port) if wanted.tunnel else None)))
        self._report(wanted, done)

    def _apply(self, connection: Connection, own: Own, wanted: Plan, underlay: Underlay, guard: Wanted) -> Done:
        # What guards comes first: nothing that it would refuse finds a way before.
        written = self._guard.keep(guard)
        done = ground.apply(connection, own, wanted, vni=self._settings.vni, port=self._settings.port,
                            mtu=self._uplink.whole(connection) or 1500,
                            uplinks=underlay.uplinks if guard.masquerade else ())
        self._guard.remember(done.forwarded)
        if written:
            done.changed.append("wrote the table that guards them")
        return done

    def _report(self, wanted: Plan, done: Done) -> None:
        metrics.WAYS.set(len(wanted.steps))
        if done.changed:
            metrics.WAY_CHANGES.inc(len(done.changed))
            log.info("ways to other nodes changed count=%d first=%s", len(done.changed), done.changed[0])
        problems = (*wanted.problems, *done.problems)
        for problem in [each for each in problems if each not in self._problems]:
            log.warning("%s", problem)
        self._problems = problems


def pause_after(took: float) -> float:
    """Seconds from the end of a look that took so many to the next, if something was told meanwhile."""
    return min(max(SETTLE_SECONDS, took / LOOKING_SHARE), LONGEST_PAUSE)


def _tunnel_there(connection: Connection) -> bool:
    link = links.get(connection, ground.DEVICE)
    return link is not None and link.alias == ground.ALIAS
