"""Nodes of an API server: what their objects say of the network, and what is left of those that are no more.

Done by the one process that is elected to write what the API server has, so no node needs a right on any Node. What can
not be written is tried again later, and stops nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from muslin.errors import Denied, InvalidArgument, MuslinError, NotFound
from muslin.etcd import keys
from muslin.etcd.mirror import Change, Mirror
from muslin.kube import kinds
from muslin.kube.client import Client
from muslin.kube.kinds import Kind, Name, Node, Resource
from services.endpoint import bulk, codec, metrics
from services.endpoint.hosts import Hosts
from services.endpoint.leftovers import GONE_AFTER, Departed, Leftovers
from services.endpoint.records import WorkloadEndpoint
from services.endpoint.standing import DOWN_AFTER, Standing, Standings, condition, untainted
from services.endpoint.store import Store

__all__ = ["NodeKeeper"]

log = logging.getLogger(__name__)

_CALL = 10.0
"""Seconds for one request."""
_LOOK, _GATHER = 1.0, 0.1
"""Seconds between two looks at nodes that time changes, and in which what has changed is gathered."""
_LOOK_AGAIN = 30.0
"""Seconds between two looks at all of them, and at what they have left."""
_ECHO = 15.0
"""Seconds in which what was written must come back by the watch; then it is written again if it is still missing."""
_FAILED, _DENIED = 10.0, 300.0
"""Seconds for which a kind of request is left off after it has failed, and after the API server has denied it."""


class NodeKeeper:
    """Beside the mirroring (`muslin.kube.mirroring.Aside`)."""

    def __init__(self, mirror: Mirror, store: Store, hosts: Hosts, down_after: float = DOWN_AFTER,
                 gone_after: float = GONE_AFTER) -> None:
        """`down_after` and `gone_after` as of Standings and Leftovers."""
        self._mirror, self._store, self._hosts = mirror, store, hosts
        self._standings, self._leftovers = Standings(down_after), Leftovers(gone_after)
        self._nodes: dict[str, Node] = {}
        self._listed: set[Kind[Any]] = set()
        self._asked: dict[str, dict[str, float]] = {}
        """By node what was written, and until when that may take to be seen."""
        self._paused: dict[str, float] = {}  # by kind of request
        self._trouble: dict[str, str] = {}
        self._changed_nodes: set[str] = set()
        self._moved = asyncio.Event()
        mirror.subscribe(self._changed)

    # What is told

    def begin(self) -> None:
        """A term begins."""
        self._nodes.clear()
        self._listed.clear()
        self._asked.clear()
        self._forget()

    def _forget(self) -> None:
        self._standings.forget()
        self._leftovers.forget()

    def listed(self, kind: Kind[Any], objects: Sequence[Resource]) -> None:
        """All of a kind."""
        self._listed.add(kind)
        if kind is kinds.NODES:
            self._nodes = {item.metadata.name: item for item in objects if isinstance(item, Node)}
            self._look_at(*self._nodes)

    def put(self, kind: Kind[Any], item: Resource) -> None:
        """An object was made or changed."""
        if kind is kinds.NODES and isinstance(item, Node):
            self._nodes[item.metadata.name] = item
            self._asked.pop(item.metadata.name, None)
            self._look_at(item.metadata.name)

    def gone(self, kind: Kind[Any], name: Name) -> None:
        """An object was deleted."""
        if kind is kinds.NODES:
            self._nodes.pop(name[1], None)
            self._asked.pop(name[1], None)

    def _changed(self, changes: Sequence[Change], _revision: int) -> None:
        for change in changes:
            for prefix in (keys.HOSTS, keys.PRESENCES):
                if change.key.startswith(prefix):
                    self._look_at(change.key.removeprefix(prefix))

    def _look_at(self, *nodes: str) -> None:
        self._changed_nodes.update(nodes)
        self._moved.set()

    # What is done

    async def run(self, client: Client) -> None:
        """Look again and again, until cancelled."""
        again = 0.0
        while True:
            self._moved.clear()
            if self._mirror.trouble:
                self._forget()  # who is present is not known; afterwards everybody gets the time to say so
                again = 0.0
            elif kinds.NODES in self._listed:
                if everything := time.monotonic() >= again:
                    self._changed_nodes.update(self._hosts.known)
                    again = time.monotonic() + min(_LOOK_AGAIN, self._leftovers.gone_after / 3)
                await self._tell(client)
                if everything and kinds.PODS in self._listed:
                    await self._clear()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._moved.wait()
                await asyncio.sleep(_GATHER)
            except TimeoutError:
                pass

    async def _tell(self, client: Client) -> None:
        """Have the objects of nodes that are to be looked at say how their network is."""
        now, names = time.monotonic(), self._changed_nodes | self._standings.waiting
        self._changed_nodes.clear()
        for name in names:
            if (host := self._hosts.known.get(name)) is None:
                self._standings.drop(name)
            elif (standing := self._standings.of(host, now)) and (node := self._nodes.get(name)):
                await self._say(client, node, standing)

    async def _say(self, client: Client, node: Node, standing: Standing) -> None:
        if standing.available and (steps := list(untainted(node))):
            await self._once(node, "taint", client.edit(kinds.NODES.path(node.name), steps, _CALL))
        if not (change := condition(node, standing, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))):
            return
        path = f"{kinds.NODES.path(node.name)}/status"
        if await self._once(node, f"condition {standing.reason}", client.patch(path, change, _CALL)):
            log.info("node=%s %s: %s", node.metadata.name, standing.reason, standing.message)

    async def _once(self, node: Node, what: str, request: Coroutine[Any, Any, None]) -> bool:
        """Make a request, if it has not been made a moment ago; whether it was made."""
        name, now, sort = node.metadata.name, time.monotonic(), what.partition(" ")[0]
        asked = self._asked.setdefault(name, {})
        self._changed_nodes.add(name)  # until it is seen that nothing is to be said any more
        if asked.get(what, 0.0) > now or self._paused.get(sort, 0.0) > now:
            request.close()
            return False
        asked[what] = now + _ECHO
        try:
            await request
        except (NotFound, InvalidArgument) as problem:  # it is another by now, which will be told
            log.debug("node=%s %s: %s", name, what, problem.message)
            return False
        except MuslinError as problem:
            self._failed(sort, problem)
            asked.pop(what)
            return False
        self._trouble.pop(sort, None)
        metrics.NODE_WRITES.labels(sort).inc()
        return True

    def _failed(self, sort: str, problem: MuslinError) -> None:
        """Leave it off for a while; the log gets to know a trouble once."""
        denied = isinstance(problem, Denied)
        self._paused[sort] = time.monotonic() + (_DENIED if denied else _FAILED)
        if self._trouble.get(sort) == type(problem).__name__:
            return
        self._trouble[sort] = type(problem).__name__
        what = "nodes/status" if sort == "condition" else "nodes"
        advice = f"; a role must allow patch of {what}" if denied else ""
        log.warning("the %s of nodes is not written: %s%s", sort, problem.message, advice)

    async def _clear(self) -> None:
        """Remove what nodes that are no more have left."""
        declared = set(self._nodes)
        declared.update(keys.parse_node(key) for key in self._mirror.items if key.startswith(keys.NODES))
        present = {host.node: host.present for host in self._hosts.known.values()}
        # Of whom there are records is counted. Looking through all of them takes its time, and is mostly not needed.
        missing = self._store.nodes - declared - {node for node, there in present.items() if there}
        records = list(map(codec.endpoint, self._store.endpoints())) if missing else []
        for departed in self._leftovers.look(declared, present, records, self._alive, time.monotonic()):
            try:
                await self._remove(departed)
            except MuslinError as problem:
                log.warning("what node %s has left is not removed yet: %s", departed.node, problem.message)

    def _alive(self, record: WorkloadEndpoint) -> bool:
        return bool(record.pod) and self._store.pod(record.namespace, record.pod, record.pod_uid) is not None

    async def _remove(self, departed: Departed) -> None:
        # Read anew: another process may know of what the mirror has not seen.
        for key in (keys.presence(departed.node), keys.node(departed.node)):
            if await self._store.get(key, _CALL) is not None:
                return
        await bulk.delete(self._store, [codec.key_of(record) for record in departed.records])
        if departed.forgettable:
            await self._hosts.forget([departed.node])
        if departed.records or departed.forgettable:
            log.warning("node=%s is no more: there is no Node of that name, and nothing is heard of it; removed "
                        "endpoints=%d%s", departed.node, len(departed.records),
                        "" if departed.forgettable else ", others stay")
