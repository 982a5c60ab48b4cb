"""What the blocks of a view add up to, kept step by step: which have an address to give, and what each pool has left.

No request looks through the blocks of a pool: it takes the first open one, or learns from the count that there is none.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field

from services.ipam import blocks, cooling
from services.ipam.blocks import Block
from services.ipam.clock import Clock
from services.ipam.reservations import Reservations, Reserved

STATES = ("full", "partial", "empty", "orphaned", "leaving", "damaged")
"""What a block can be to those who look for an address."""


@dataclass
class Tally:
    """What a pool's blocks add up to."""

    claimed: set[int] = field(default_factory=set)
    """Numbers of the first addresses of the blocks that exist."""
    open: dict[str, None] = field(default_factory=dict)
    """CIDRs of the blocks whose node may give an address now, the one that opened first at the front."""
    idle: dict[str, None] = field(default_factory=dict)
    """CIDRs of the blocks that are nobody's and hold nothing: a node may claim them."""
    states: Counter[str] = field(default_factory=Counter)
    """Blocks by state, one of `STATES`."""
    used: int = 0
    """Addresses held."""
    waiting: set[str] = field(default_factory=set)
    """CIDRs of the blocks in which something cools down, or did."""

    @property
    def damaged(self) -> int:
        """Blocks that can not be used because their record is damaged."""
        return self.states["damaged"]


class Index:
    """Blocks by what can be had from them. `cool_down` gives a pool's in seconds, by name."""

    def __init__(self, clock: Clock, cool_down: Callable[[str], float]) -> None:
        self._clock, self._cool_down = clock, cool_down
        self._tallies: dict[str, Tally] = {}
        self._open: dict[str, dict[str, None]] = {}
        self._owned: dict[str, dict[str, None]] = {}
        self._seen: dict[str, cooling.Seen] = {}
        self._ripening: list[tuple[float, str]] = []
        self._blocks: dict[str, Block] = {}
        self.reserved = Reserved(Reservations())

    def clear(self) -> None:
        """Forget all but what was seen to cool down: what it is counted by has changed."""
        self._tallies, self._open, self._owned, self._ripening, self._blocks = {}, {}, {}, [], {}

    def tally(self, pool: str) -> Tally:
        """The sums of a pool."""
        if (found := self._tallies.get(pool)) is None:
            found = self._tallies[pool] = Tally()
        return found

    def open(self, node: str) -> dict[str, None]:
        """CIDRs of a node's blocks with an address to give now."""
        return self._open.get(node, {})

    def owned(self, node: str) -> dict[str, None]:
        """CIDRs of a node's blocks."""
        return self._owned.get(node, {})

    @property
    def owners(self) -> Set[str]:
        """The nodes that have blocks; live."""
        return self._owned.keys()

    def update(self, cidr: str, pools: tuple[str, str], old: tuple[bool, Block | None],
               new: tuple[bool, Block | None]) -> None:
        """A block has changed: whether it was there and what it was, whether it is and what it is.

        `pools` are the pools that it counted and counts against. A block that is there, and None, is damaged.
        """
        if old[0]:
            self._count(cidr, pools[0], old[1], -1)
        if new[0]:
            self._count(cidr, pools[1], new[1], 1)
        if new[1] is None or not new[1].cooling:
            self._seen.pop(cidr, None)
        else:
            self._seen[cidr] = cooling.see(new[1], self._seen.get(cidr, {}), self._clock)
        self._place(cidr, pools, old[1], new[1])

    def ripen(self) -> None:
        """Open the blocks in which a cool-down has passed since."""
        now = self._clock.passed()
        while self._ripening and self._ripening[0][0] <= now:
            _, cidr = heapq.heappop(self._ripening)
            if block := self._blocks.get(cidr):
                self._place(cidr, (block.pool, block.pool), block, block)

    def barred(self, block: Block) -> blocks.Barred:
        """Which of a block's ordinals must not be given now."""
        reserved = self.reserved.ordinals(block.cidr)
        if not block.cooling:
            return reserved.__contains__ if reserved else blocks.never
        now = self._clock.passed()
        return lambda ordinal: ordinal in reserved or self._ready(block, ordinal) > now

    def ready_at(self, block: Block) -> float | None:
        """When (`Clock.passed`) the block has an address to give; None if all are held or reserved."""
        reserved = self.reserved.ordinals(block.cidr)
        best: float | None = None
        for ordinal in blocks.free(block):
            if ordinal in reserved:
                continue
            ready = self._ready(block, ordinal)
            if ready == cooling.OVER:
                return ready
            best = ready if best is None else min(best, ready)
        return best

    def cools(self, block: Block) -> list[int]:
        """Ordinals that cool down at this moment."""
        now = self._clock.passed()
        return [ordinal for ordinal in block.cooling if self._ready(block, ordinal) > now]

    def cools_until(self, block: Block, ordinal: int) -> float:
        """Seconds until a free address may be given; 0 if it may now."""
        return max(0.0, self._ready(block, ordinal) - self._clock.passed())

    def _ready(self, block: Block, ordinal: int) -> float:
        if (freed := block.cooling.get(ordinal)) is None:
            return cooling.OVER
        return cooling.ready_at(ordinal, freed, self._seen.get(block.cidr, {}), self._cool_down(block.pool),
                                self._clock)

    def _count(self, cidr: str, pool: str, block: Block | None, sign: int) -> None:
        tally = self.tally(pool)
        (tally.claimed.add if sign > 0 else tally.claimed.discard)(blocks.first(cidr))
        tally.states[_state(block)] += sign
        if block:
            tally.used += sign * blocks.used(block)
            (tally.waiting.add if sign > 0 and block.cooling else tally.waiting.discard)(cidr)

    def _place(self, cidr: str, pools: tuple[str, str], old: Block | None, new: Block | None) -> None:
        """Put a block on the lists it belongs on; one that stays on a list keeps its place there."""
        lists: list[dict[str, None]] = []
        if new:
            self._blocks[cidr] = new
            lists = self._lists(cidr, pools[1], new)
            if new.node and not (old and old.node == new.node and cidr in self.owned(new.node)):
                self._owned.setdefault(new.node, {})[cidr] = None
        else:
            self._blocks.pop(cidr, None)
        if old:
            if old.node and (new is None or new.node != old.node):
                _drop(self._owned, old.node, cidr)
            tally = self.tally(pools[0])
            for present in (tally.open, tally.idle, self._open.get(old.node, {})):
                if not any(present is other for other in lists):
                    present.pop(cidr, None)
        for wanted in lists:
            wanted[cidr] = None
        if old and not self._open.get(old.node, True):
            del self._open[old.node]

    def _lists(self, cidr: str, pool: str, block: Block) -> list[dict[str, None]]:
        if block.leaving or (not block.node and block.held):
            return []
        ready = self.ready_at(block)
        if ready is None:
            return []
        if ready > self._clock.passed():
            heapq.heappush(self._ripening, (ready, cidr))
            return []
        tally = self.tally(pool)
        return [tally.open, self._open.setdefault(block.node, {})] if block.node else [tally.idle]


def _drop(index: dict[str, dict[str, None]], name: str, cidr: str) -> None:
    if (of := index.get(name)) is not None:
        of.pop(cidr, None)
        if not of:
            del index[name]


def _state(block: Block | None) -> str:
    if block is None:
        return "damaged"
    if block.affinity != "confirmed":
        return "orphaned" if block.affinity == "none" else "leaving"
    return "empty" if not block.held else "partial" if blocks.available(block) else "full"
