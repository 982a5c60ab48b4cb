"""What this process knows of the store: enough to decide without asking, never enough to be trusted.

Decisions are taken on the view and committed on condition that every record they rest on is still at the revision the
view had it at. A view that is behind costs a conflict, not an address.

The base is a mirror of the store. On top lie records that this process read or wrote itself and the mirror has not
caught up with yet, so that one commit can follow another without waiting for the watch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from muslin.errors import Corrupt, InvalidArgument
from muslin.etcd import keys
from muslin.etcd.values import KeyValue
from services.ipam import blocks, pools, ranges, store
from services.ipam.blocks import Block
from services.ipam.clock import Clock
from services.ipam.config import Config
from services.ipam.handles import Handle
from services.ipam.index import Index, Tally
from services.ipam.kept import Kept
from services.ipam.pools import Pool
from services.ipam.reservations import Reservations, Reserved

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
    ours: bool
    """Whether this process wrote it, then."""


_KEPT = b'"kept_until_ms"'
"""Is in the record of a handle if, and only if, it is kept: defaults are not written."""
_COUNTED = (keys.IPAM_HANDLES, keys.IPAM_BLOCKS)


class View:
    """Pools and blocks decoded and indexed; handles, of which there are many, are decoded when asked for."""

    def __init__(self, stored: Mapping[str, KeyValue], clock: Clock | None = None) -> None:
        """`stored` is the mirror's, live: it changes before `changed` is told."""
        self.clock = clock or Clock()
        self.index = Index(self.clock, self._cool_down)
        self.kept = Kept(self.clock)
        self._stored = stored
        self._revision = 0
        self.ours: frozenset[str] = frozenset()
        """Keys among the changes last told whose record is what this process wrote itself."""
        self._recent: dict[str, _Seen] = {}
        self._pools: dict[str, Known[Pool]] = {}
        self._sorted: tuple[Pool, ...] = ()
        self._serving: dict[int, Mapping[str, Pool]] = {}
        self._blocks: dict[str, Known[Block]] = {}
        self._writing: dict[str, bytes | None] = {}
        self._made: dict[str, Block] = {}
        self._config: Known[Config] = Known(None, 0)
        self._draining: set[str] = set()
        self._reservations: Known[Reservations] = Known(None, 0)

    def pools(self) -> tuple[Pool, ...]:
        """All pools that decode, sorted by name."""
        return self._sorted

    def damaged_pools(self) -> list[str]:
        """Names of the pools that do not decode."""
        return sorted(name for name, known in self._pools.items() if known.value is None)

    def serving(self, family: int) -> Mapping[str, Pool]:
        """The pools of a family that serve, by name, in order."""
        if (known := self._serving.get(family)) is None:
            known = self._serving[family] = {pool.name: pool for pool in self._sorted
                                             if pools.serves(pool) and pools.family(pool) == family}
        return known

    def pool(self, name: str) -> Known[Pool]:
        """A pool by name."""
        return self._pools.get(name) or Known(None, 0)

    def pool_of(self, address: str) -> Pool | None:
        """The pool that an address is in."""
        return next((pool for pool in self._sorted if ranges.within(pool.cidr, address)), None)

    def blocks(self) -> Iterator[Block]:
        """All blocks that decode, in no order."""
        return (known.value for known in self._blocks.values() if known.value)

    def all_blocks(self) -> Iterator[tuple[str, Known[Block]]]:
        """CIDR and record of every block, damaged ones too, in no order."""
        return iter(list(self._blocks.items()))

    def block(self, cidr: str) -> Known[Block]:
        """A block by CIDR."""
        return self._blocks.get(cidr) or Known(None, 0)

    def open_blocks(self, node: str) -> Iterator[str]:
        """CIDRs of a node's blocks with an address to give now."""
        return iter(self.index.open(node))

    @property
    def draining(self) -> Set[str]:
        """The nodes that get nothing new; live."""
        return self._draining

    def tally(self, pool: str) -> Tally:
        """The sums of a pool."""
        return self.index.tally(pool)

    def config(self) -> Known[Config]:
        """The settings; if there are none, or they are damaged, the defaults stand for them."""
        return self._config

    def settings(self) -> Config:
        """What to go by: the settings that are stored, or the defaults."""
        return self._config.value or Config()

    def reservations(self) -> Known[Reservations]:
        """The reservations."""
        return self._reservations

    def handle(self, identity: str) -> Known[Handle]:
        """A handle by identity; there is none of what can not be an identity, whatever a damaged block says."""
        try:
            key = store.handle_key(identity)
        except InvalidArgument:
            return Known(None, 0)
        return _known(Handle, self._effective(key))

    def handles(self) -> Iterator[tuple[str, Known[Handle]]]:
        """Key and record of every handle; they are decoded one by one, on the way."""
        names = {key for key in (*self._stored, *self._recent) if key.startswith(keys.IPAM_HANDLES)}
        for key in sorted(names):
            if (record := self._effective(key)) is not None:
                yield key, Known(_decoded(Handle, record), record.mod_revision)

    def revision(self, key: str) -> int:
        """The revision at which a record is known, 0 if there is none."""
        record = self._effective(key)
        return record.mod_revision if record else 0

    def changed(self, touched: Iterable[str], revision: int) -> None:
        """The mirror has reached a revision; these keys have changed."""
        # A store whose revision goes back is another store (restored, or made anew): nothing seen before counts.
        back = revision < self._revision
        self._revision = revision
        overtaken = [key for key, seen in self._recent.items() if back or seen.at <= revision]
        same: set[str] = set()
        ours = {key for key in touched if (value := self._writing.get(key)) is not None
                and (stored := self._stored.get(key)) is not None and stored.value == value} if self._writing else set()
        for key in overtaken:
            seen = self._recent.pop(key)
            if seen.record is not None and (stored := self._stored.get(key)) is not None and (
                    stored.mod_revision == seen.record.mod_revision and stored.value == seen.record.value):
                same.add(key)
                if seen.ours:
                    ours.add(key)
        self.ours = frozenset(ours)
        # Pools and reservations first: blocks are counted by them, and all are counted anew when they change.
        later = []
        for key in {*touched, *overtaken} - same:
            if key.startswith(_COUNTED):
                later.append(key)
            else:
                self._index(key)
        for key in later:
            self._index(key)

    def see(self, key: str, record: KeyValue | None, at: int, *, ours: bool = False) -> None:
        """A record as this process read or (`ours`) wrote it: at revision `at` of the store it was this, or absent."""
        if at <= self._revision or ((seen := self._recent.get(key)) and at <= seen.at):
            return
        self._recent[key] = _Seen(record, at, ours)
        self._index(key)

    def writing(self, writes: Mapping[str, bytes | None], changed: Iterable[Block]) -> None:
        """Records are about to be written by this process: seen in the store, they need not be decoded and checked."""
        self._writing.update(writes)
        for block in changed:
            self._made[keys.block(block.cidr)] = block

    def written(self, writes: Iterable[str]) -> None:
        """That is over, and the outcome was seen."""
        for key in writes:
            self._writing.pop(key, None)
            self._made.pop(key, None)

    def _effective(self, key: str) -> KeyValue | None:
        seen = self._recent.get(key)
        return seen.record if seen else self._stored.get(key)

    def _index(self, key: str) -> None:
        if key.startswith(keys.IPAM_HANDLES):
            self._index_handle(key)
        elif key.startswith(keys.IPAM_BLOCKS):
            self._index_block(key)
        elif key.startswith(keys.IPAM_POOLS):
            self._index_pool(key)
        elif key.startswith(keys.IPAM_NODES):
            node = _known(store.Node, self._effective(key)).value
            (self._draining.add if node and node.draining else self._draining.discard)(
                key.removeprefix(keys.IPAM_NODES))
        elif key == keys.IPAM_CONFIG:
            self._config = _known(Config, self._effective(key))
        elif key == keys.IPAM_RESERVATIONS:
            self._reservations = _known(Reservations, self._effective(key))
            self.index.reserved = Reserved(self._reservations.value or Reservations())
            self._recount()

    def _index_handle(self, key: str) -> None:
        seen = self._recent.get(key)  # as in `_effective`, which would take its time for each of very many
        record = seen.record if seen else self._stored.get(key)
        handle = _decoded(Handle, record) if record is not None and _KEPT in record.value else None
        if record and handle and handle.kept_until_ms:
            self.kept.put(handle, record.mod_revision)
        elif self.kept:
            self.kept.drop(key.removeprefix(keys.IPAM_HANDLES))

    def _index_pool(self, key: str) -> None:
        record, name = self._effective(key), key.removeprefix(keys.IPAM_POOLS)
        before = self.pool(name)
        if before.revision == (record.mod_revision if record else 0):
            return
        if record:
            self._pools[name] = Known(_decoded(Pool, record), record.mod_revision)
        else:
            self._pools.pop(name, None)
        self._sorted = tuple(known.value for _, known in sorted(self._pools.items()) if known.value)
        self._serving.clear()
        if before.value != self.pool(name).value:
            self._recount()

    def _recount(self) -> None:
        # Which pool a damaged block counts against may change with the pools, and what is open with their cool-down
        # and with reservations; that is rare, so all is counted anew.
        self.index.clear()
        for cidr, known in self._blocks.items():
            pool = self._pool_of_block(cidr, known.value)
            self.index.update(cidr, (pool, pool), (False, None), (True, known.value))

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
            made = self._made.get(key)
            ours = made is not None and self._writing.get(key) == record.value
            block = made if ours else _decoded(Block, record)
            if block and not ours and (wrong := blocks.problems(block)):
                log.error("block %s is damaged and not used: %s", cidr, "; ".join(wrong))
                block = None
            new = Known(block, record.mod_revision)
            self._blocks[cidr] = new
        else:
            self._blocks.pop(cidr, None)
        self.index.update(cidr, (self._pool_of_block(cidr, old.value), self._pool_of_block(cidr, new.value)),
                          (bool(old.revision), old.value), (bool(new.revision), new.value))

    def _pool_of_block(self, cidr: str, block: Block | None) -> str:
        return block.pool if block else next((p.name for p in self._sorted if pools.holds(p, cidr)), "")

    def _cool_down(self, pool: str) -> float:
        known = self._pools.get(pool)
        return known.value.cool_down if known and known.value else pools.COOL_DOWN


def _known(kind: type[store.Record], record: KeyValue | None) -> Known[store.Record]:
    return Known(_decoded(kind, record), record.mod_revision) if record else Known(None, 0)


def _decoded(kind: type[store.Record], record: KeyValue) -> store.Record | None:
    try:
        return store.decode(kind, record.key, record.value)
    except Corrupt as problem:
        log.error("%s", problem.message)  # noqa: TRY400  what is wrong is the record; the traceback is of no use
        return None
