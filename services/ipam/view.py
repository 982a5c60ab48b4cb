"""What this process knows of the store: enough to decide without asking, never enough to be trusted.

Decisions are taken on the view and committed on condition that every record they rest on is still at the revision the
view had it at. A view that is behind costs a conflict, not an address.

The base is a mirror of the store. On top lie records that this process read or wrote itself and the mirror has not
caught up with yet, so that one commit can follow another without waiting for the watch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from muslin.errors import Corrupt
from muslin.etcd import keys
from muslin.etcd.values import KeyValue
from services.ipam import blocks, pools, store
from services.ipam.blocks import Block
from services.ipam.handles import Handle
from services.ipam.pools import Pool

log = logging.getLogger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Known(Generic[Value]):
    """A record at a revision. Revision 0: there is none. A revision, but no value: it does not decode."""

    value: Value | None
    revision: int


class _Seen(NamedTuple):
    record: KeyValue | None
    at: int
    """Revision of the store at which it was so."""


@dataclass
class Tally:
    """What a pool's blocks add up to."""

    claimed: set[int] = field(default_factory=set)
    """Numbers of the first addresses of the blocks that exist."""
    open: dict[str, None] = field(default_factory=dict)
    """CIDRs of the blocks with a free address, the one that opened first at the front."""
    damaged: int = 0
    """Blocks that can not be used because their record is damaged."""
    used: int = 0
    """Addresses held."""


class View:
    """Pools and blocks decoded and indexed; handles, of which there are many, are decoded when asked for."""

    def __init__(self, stored: Mapping[str, KeyValue]) -> None:
        """`stored` is the mirror's, live: it changes before `changed` is told."""
        self._stored = stored
        self._revision = 0
        self._recent: dict[str, _Seen] = {}
        self._pools: dict[str, Known[Pool]] = {}
        self._blocks: dict[str, Known[Block]] = {}
        self._open: dict[str, dict[str, None]] = {}
        self._tallies: dict[str, Tally] = {}

    def pools(self) -> Iterator[Pool]:
        """All pools, sorted by name."""
        return (known.value for _, known in sorted(self._pools.items()) if known.value)

    def pool(self, name: str) -> Known[Pool]:
        """A pool by name."""
        return self._pools.get(name) or Known(None, 0)

    def blocks(self) -> Iterator[Block]:
        """All blocks that decode, in no order."""
        return (known.value for known in self._blocks.values() if known.value)

    def block(self, cidr: str) -> Known[Block]:
        """A block by CIDR."""
        return self._blocks.get(cidr) or Known(None, 0)

    def open_blocks(self, node: str) -> Iterator[str]:
        """CIDRs of a node's blocks with a free address."""
        return iter(self._open.get(node, ()))

    def tally(self, pool: str) -> Tally:
        """The sums of a pool."""
        return self._tallies.get(pool) or Tally()

    def handle(self, identity: str) -> Known[Handle]:
        """A handle by identity."""
        key = store.handle_key(identity)
        if (record := self._effective(key)) is None:
            return Known(None, 0)
        return Known(_decoded(Handle, record), record.mod_revision)

    def handles(self) -> Iterator[tuple[str, Known[Handle]]]:
        """Key and record of every handle; they are decoded one by one, on the way."""
        names = {key for key in (*self._stored, *self._recent) if key.startswith(keys.IPAM_HANDLES)}
        for key in sorted(names):
            if (record := self._effective(key)) is not None:
                yield key, Known(_decoded(Handle, record), record.mod_revision)

    def changed(self, touched: Iterable[str], revision: int) -> None:
        """The mirror has reached a revision; these keys have changed."""
        # A store whose revision goes back is another store (restored, or made anew): nothing seen before counts.
        back = revision < self._revision
        self._revision = revision
        overtaken = [key for key, seen in self._recent.items() if back or seen.at <= revision]
        for key in overtaken:
            del self._recent[key]
        for key in {*touched, *overtaken}:
            self._index(key)

    def see(self, key: str, record: KeyValue | None, at: int) -> None:
        """A record as this process read or wrote it: at revision `at` of the store it was this, or absent."""
        if at <= self._revision or ((seen := self._recent.get(key)) and at <= seen.at):
            return
        self._recent[key] = _Seen(record, at)
        self._index(key)

    def _effective(self, key: str) -> KeyValue | None:
        seen = self._recent.get(key)
        return seen.record if seen else self._stored.get(key)

    def _index(self, key: str) -> None:
        if key.startswith(keys.IPAM_BLOCKS):
            self._index_block(key)
        elif key.startswith(keys.IPAM_POOLS):
            self._index_pool(key)

    def _index_pool(self, key: str) -> None:
        record, name = self._effective(key), key.removeprefix(keys.IPAM_POOLS)
        if self.pool(name).revision == (record.mod_revision if record else 0):
            return
        if record:
            self._pools[name] = Known(_decoded(Pool, record), record.mod_revision)
        else:
            self._pools.pop(name, None)
        # Which pool a damaged block counts against may change with the pools; that is rare, so all is counted anew.
        self._open, self._tallies = {}, {}
        for cidr, known in self._blocks.items():
            self._count(cidr, known.value, 1)
            self._list(cidr, None, known.value)

    def _index_block(self, key: str) -> None:
        record = self._effective(key)
        try:
            cidr = keys.parse_block(key)
            blocks.first(cidr)
        except (Corrupt, ValueError) as problem:
            log.warning("record %s is ignored: %s", key, problem)
            return
        old = self.block(cidr)
        if old.revision == (record.mod_revision if record else 0):
            return
        new: Known[Block] = Known(None, 0)
        if record:
            block = _decoded(Block, record)
            if block and (wrong := blocks.problems(block)):
                log.error("block %s is damaged and not used: %s", cidr, "; ".join(wrong))
                block = None
            new = Known(block, record.mod_revision)
        if old.revision:
            self._count(cidr, old.value, -1)
            del self._blocks[cidr]
        if new.revision:
            self._count(cidr, new.value, 1)
            self._blocks[cidr] = new
        self._list(cidr, old.value, new.value)

    def _count(self, cidr: str, block: Block | None, sign: int) -> None:
        """Add a block to its pool's sums, or take it out."""
        tally = self._tally_of(cidr, block)
        claimed = tally.claimed.add if sign > 0 else tally.claimed.discard
        claimed(blocks.first(cidr))
        if block:
            tally.used += sign * blocks.used(block)
        else:
            tally.damaged += sign

    def _list(self, cidr: str, old: Block | None, new: Block | None) -> None:
        """Keep the lists of blocks with a free address; a block that stays in one keeps its place."""
        before, after = self._lists(cidr, old), self._lists(cidr, new)
        for index in before:
            if not any(index is other for other in after):
                index.pop(cidr, None)
        for index in after:
            index[cidr] = None

    def _lists(self, cidr: str, block: Block | None) -> tuple[dict[str, None], ...]:
        if block is None or not blocks.available(block):
            return ()
        return self._tally_of(cidr, block).open, self._open.setdefault(block.node, {})

    def _tally_of(self, cidr: str, block: Block | None) -> Tally:
        pool = block.pool if block else next((p.name for p in self.pools() if pools.holds(p, cidr)), "")
        return self._tallies.setdefault(pool, Tally())


def _decoded(kind: type[store.Record], record: KeyValue) -> store.Record | None:
    try:
        return store.decode(kind, record.key, record.value)
    except Corrupt as problem:
        log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use
        return None
