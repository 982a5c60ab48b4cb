"""Why a node's pod is stopped: to be replaced, or because Muslin is removed from the cluster.

A pod that is stopped is not told. So the namespace, the DaemonSet and etcd's StatefulSet are watched while it runs, and
asked for once more at its end, when the rights to ask may be gone already. What is not known removes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum

from muslin.cli.cluster import names
from muslin.errors import MuslinError
from muslin.kube.client import Client, Listing
from muslin.kube.installed import DAEMON_SETS, STATEFUL_SETS, one
from muslin.kube.kinds import NAMESPACES, Kind, Name, Plain
from muslin.kube.reflector import Reflector
from muslin.tasks import TaskSet

__all__ = ["Fate", "Leaving", "removed"]

log = logging.getLogger(__name__)

_TIMEOUT = 3.0
"""Seconds for one question at the end."""
_PAUSE = 0.5
"""Between two of them."""


class Fate(Enum):
    """What is known of an object."""

    UNKNOWN = "unknown"
    STAYS = "stays"
    LEAVES = "leaves"
    """It is being deleted, or is gone."""


def removed(namespace: Fate, workload: Fate) -> bool | None:
    """Whether something is removed for good, from what is known of the namespace and of it; None: not known."""
    if Fate.LEAVES in (namespace, workload):
        return True
    return False if namespace is workload is Fate.STAYS else None


class _Watched:
    """One object, followed."""

    def __init__(self, client: Client, kind: Kind[Plain], name: Name, moved: Callable[[], None]) -> None:
        self.kind, self.name = kind, name
        self.fate = Fate.UNKNOWN
        self._moved = moved
        self.reflector = Reflector(client, one(kind, name[1], name[0]), self)

    def listed(self, listing: Listing[Plain]) -> None:
        """As Sink."""
        self._set(next((self._of(item) for item in listing.objects if item.name == self.name), Fate.LEAVES))

    def put(self, item: Plain) -> None:
        """As Sink."""
        if item.name == self.name:
            self._set(self._of(item))

    def damaged(self, name: Name) -> None:
        """As Sink: it is as it was."""

    def gone(self, name: Name) -> None:
        """As Sink."""
        if name == self.name:
            self._set(Fate.LEAVES)

    def excused(self) -> None:
        """As Sink; the kinds are not optional."""

    @staticmethod
    def _of(item: Plain) -> Fate:
        return Fate.LEAVES if item.leaving else Fate.STAYS

    def _set(self, fate: Fate) -> None:
        if fate is not self.fate:
            self.fate = fate
            self._moved()

    async def ask(self, client: Client) -> None:
        """Look again. Raises MuslinError; what was known stays then."""
        item = await client.get(self.kind, self.name, _TIMEOUT)
        self._set(Fate.LEAVES if item is None else self._of(item))


class Leaving:
    """What becomes of this installation."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._moved = asyncio.Event()
        self._namespace = _Watched(client, NAMESPACES, ("", namespace), self._moved.set)
        self._nodes = _Watched(client, DAEMON_SETS, (namespace, names.DAEMON_SET), self._moved.set)
        self._etcd = _Watched(client, STATEFUL_SETS, (namespace, names.member(0)), self._moved.set)

    @property
    def _all(self) -> tuple[_Watched, ...]:
        return self._namespace, self._nodes, self._etcd

    def start(self, tasks: TaskSet) -> None:
        """Begin to follow."""
        for each in self._all:
            tasks.spawn(f"follow {each.kind.kind}", each.reflector.run())

    @property
    def etcd_removed(self) -> bool:
        """Whether etcd's data are not needed any more, as far as is known."""
        return removed(self._namespace.fate, self._etcd.fate) is True

    async def decided(self, patience: float) -> bool:
        """Whether Muslin is removed from this node, once it is known; False after `patience` seconds without that.

        What was heard while running counts where nobody answers: a namespace that is being deleted does not come back.
        """
        said = ""
        try:
            async with asyncio.timeout(patience):
                while True:
                    self._moved.clear()
                    if removed(self._namespace.fate, self._nodes.fate):
                        return True
                    try:
                        await self._ask()
                    except MuslinError as problem:
                        if problem.message != said:
                            said = problem.message
                            log.warning("can not ask whether Muslin is being removed: %s", said)
                    else:
                        if (known := removed(self._namespace.fate, self._nodes.fate)) is not None:
                            return known
                    await self._pause()
        except TimeoutError:
            log.warning("it is not known whether Muslin is being removed: everything stays as it is")
            return False

    async def _ask(self) -> None:
        await self._namespace.ask(self._client)
        await self._nodes.ask(self._client)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(_PAUSE):
                await self._moved.wait()
        except TimeoutError:
            pass  # ask again
