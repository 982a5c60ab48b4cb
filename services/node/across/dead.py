"""When a node is taken to be gone: it is not heard of, for some time, and does not answer.

A daemon that is stopped is no reason, nor is a store that was away: pods run all the same. So silence counts only while
this node can hear, and then the host itself is asked.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping

from services.node import metrics
from services.node.across.echo import answers
from services.node.across.plan import Host

__all__ = ["Dead"]

log = logging.getLogger(__name__)

ECHOES = 3
"""In a row without an answer, after which a host counts as gone."""

ECHO_SECONDS = 1.0
"""For one answer, and between two looks at a node that is not heard of."""

AT_ONCE = 64
"""Hosts that are asked at a time."""


class Dead:
    """The nodes that are gone.

    Attributes:
        nodes: their names.
    """

    def __init__(self, node: str, grace: float, moved: Callable[[], None]) -> None:
        """`grace` is how many seconds a node must be absent before it is asked; `moved` is called upon a change."""
        self._node, self._grace, self._moved = node, grace, moved
        self.nodes: frozenset[str] = frozenset()
        self._absent: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    async def run(self, hosts: Callable[[], Mapping[str, Host]], current: Callable[[], bool]) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(ECHO_SECONDS)
            known = hosts()
            if not current():
                self._absent.clear()  # they may be heard of where this node is not
                continue
            now = time.monotonic()
            absent = {host.node: host for host in known.values() if not host.present and host.node != self._node}
            self._absent = {node: self._absent.get(node, now) for node in absent}
            self._silent = {node: count for node, count in self._silent.items() if node in absent}
            await self._ask([absent[node] for node, since in self._absent.items()
                             if now - since >= self._grace or node in self.nodes])
            self._settle()

    async def _ask(self, hosts: Iterable[Host]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def ask(host: Host) -> None:
            async with gate:
                found = [await answers(address, ECHO_SECONDS) for address in host.addresses.values()]
            self._silent[host.node] = 0 if any(found) else self._silent.get(host.node, 0) + 1

        await asyncio.gather(*map(ask, hosts))

    def _settle(self) -> None:
        dead = frozenset(node for node, count in self._silent.items() if count >= ECHOES)
        for node in dead - self.nodes:
            log.warning("node %s is not heard of and does not answer: the ways to its pods are taken away", node)
        for node in self.nodes - dead:
            log.info("node %s is there again", node)
        if dead != self.nodes:
            self.nodes = dead
            metrics.DEAD_NODES.set(len(dead))
            self._moved()
