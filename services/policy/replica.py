"""One replica of the policy service: its copy of the store, its compiled state, and how current they are."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

from muslin.errors import Unavailable
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Change, Mirror
from muslin.rpc import Part
from services.policy import metrics
from services.policy.endpoints import SOURCE as ENDPOINTS
from services.policy.hub import Hub
from services.policy.sources import Sources
from services.policy.store import Store
from services.policy.streams import Streams

OBJECTS = "objects"
"""What the hub calls the records in etcd."""

_LOOK = 0.5
"""Seconds between looks at whether the mirror follows: it announces changes of records, not of its own state."""


class Replica:
    """What requests are answered from. The owner runs `mirror.run()` and `follow()` in tasks."""

    def __init__(self, etcd: Etcd) -> None:
        self.mirror = Mirror(etcd, keys.POLICY)
        self.store = Store(etcd, self.mirror.items)
        self.hub = Hub((OBJECTS, ENDPOINTS))
        self.streams = Streams(self.hub)
        self._sources = Sources()
        self.mirror.subscribe(self._changed)

    def _changed(self, changes: Sequence[Change], _revision: int) -> None:
        self.hub.put(self._sources.take(changes))
        metrics.CONDITIONS.set(len(self._sources.conditions()))

    async def follow(self, part: Part) -> None:
        """Say when the store has been read, and keep readiness in step with the mirror, until cancelled."""
        while not self.mirror.ready.is_set():
            part.set(False, self.mirror.trouble)
            try:
                await asyncio.wait_for(self.mirror.ready.wait(), _LOOK)
            except TimeoutError:
                pass  # to tell the present trouble
        self.hub.complete(OBJECTS)
        while True:
            part.set(not self.mirror.trouble, self.mirror.trouble)
            await asyncio.sleep(_LOOK)

    async def set_aside(self) -> None:
        """Once all is compiled, take it out of the garbage collector's sight.

        Each full collection looks at everything that there is: with 100,000 endpoints the service would stand still for
        a second. None of the state is in cycles, so it is freed by reference counts alone, now as before.
        """
        await self.hub.ready.wait()
        gc.collect()
        gc.freeze()

    @property
    def sources(self) -> Sources:
        """The stored objects. Raises Unavailable before they have been read."""
        if not self.mirror.ready.is_set():
            raise Unavailable(f"policy: the store has not been read yet: {self.mirror.trouble or 'starting'}")
        return self._sources

    def check_compiled(self) -> None:
        """Raises Unavailable before there are programs."""
        if not self.hub.ready.is_set():
            raise Unavailable(f"policy: nothing is compiled yet: waiting for {self.hub.missing or 'compilation'}")

    async def reached(self, revision: int, remaining: float) -> None:
        """Wait until the programs reflect the store at a revision, that of a change of ours; at most so many seconds.

        Raises:
            TimedOut, Unavailable: they do not yet. What was stored is stored.
        """
        ends = time.monotonic() + remaining
        await self.mirror.reached(revision, remaining)
        try:
            await asyncio.wait_for(self.hub.ready.wait(), max(ends - time.monotonic(), 0))
        except TimeoutError:
            raise Unavailable(f"stored at revision {revision} and not compiled yet: waiting for {self.hub.missing}"
                              ) from None
        self.hub.flush()
