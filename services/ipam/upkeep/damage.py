"""Counting the records that can not be used, as they change: an operator learns of damage from the metrics.

Nothing is assigned from a damaged block, and a damaged handle is neither extended nor overwritten. Both stay as they
are until they are rebuilt, or the attachment is deleted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from muslin.errors import Corrupt
from muslin.etcd import KeyValue, keys
from muslin.etcd.mirror import Change
from services.ipam import blocks, store
from services.ipam.blocks import Block
from services.ipam.config import Config
from services.ipam.handles import Handle
from services.ipam.pools import Pool
from services.ipam.reservations import Reservations
from services.ipam.upkeep import metrics

log = logging.getLogger(__name__)

_SLICE, _PAUSE = 500, 0.01
"""Records looked at before others get their turn, and seconds of that: at the start there may be very many."""

_KINDS: Mapping[str, tuple[str, type[msgspec.Struct]]] = {
    keys.IPAM_POOLS: ("pool", Pool), keys.IPAM_BLOCKS: ("block", Block), keys.IPAM_HANDLES: ("handle", Handle),
    keys.IPAM_AFFINITIES: ("affinity", store.Affinity), keys.IPAM_RESERVATIONS: ("reservations", Reservations),
    keys.IPAM_CONFIG: ("config", Config)}


def fault(record: KeyValue) -> tuple[str, str]:
    """Kind of a record, and what is wrong with it; both empty if it is of no kind that is looked at."""
    for prefix, (kind, shape) in _KINDS.items():
        if record.key.startswith(prefix):
            try:
                decoded = store.decode(shape, record.key, record.value)
            except Corrupt as problem:
                return kind, problem.message
            return kind, "; ".join(blocks.problems(decoded)) if isinstance(decoded, Block) else ""
    return "", ""


class Damage:
    """Follows a mirror; `run()` looks at what has changed, in a task of the owner's."""

    def __init__(self, records: Mapping[str, KeyValue],
                 ours: Callable[[], Collection[str]] = frozenset) -> None:
        """`records` are the mirror's, live; `ours` gives the keys among the last changes that this process wrote."""
        self._records, self._ours = records, ours
        self._found: dict[str, str] = {}
        """Kind by key."""
        self._touched: dict[str, None] = {}
        self._grown = asyncio.Event()
        for kind, _ in _KINDS.values():
            metrics.DAMAGED.labels(kind).set(0)

    def changed(self, changes: Sequence[Change], _revision: int) -> None:
        """The mirror has changed."""
        ours = self._ours()
        for change in changes:
            # What this process has written itself need not be decoded to know that it can be.
            if change.key not in ours or change.key in self._found:
                self._touched[change.key] = None
        if self._touched:
            self._grown.set()

    async def run(self) -> None:
        """Look at what has changed, until cancelled."""
        while True:
            await self._grown.wait()
            self._grown.clear()
            while self._touched:
                for key in list(self._touched)[:_SLICE]:
                    del self._touched[key]
                    self._look(key)
                await asyncio.sleep(_PAUSE)

    def _look(self, key: str) -> None:
        record, before = self._records.get(key), self._found.pop(key, "")
        kind, wrong = fault(record) if record else ("", "")
        if wrong:
            self._found[key] = kind
            if not before:
                log.error("a record is damaged, and left alone: %s", wrong)
        for changed in {before, kind} - {""}:
            metrics.DAMAGED.labels(changed).set(sum(of == changed for of in self._found.values()))
