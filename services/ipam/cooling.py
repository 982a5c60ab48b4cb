"""Cool-down: a freed address is not given again before the pool's time has passed.

The time of release is written in the block, by the clock of whoever wrote it; that clock, or the reader's, may be an
hour off. So a reader does not subtract one from the other and believe it. It remembers by its own clock that can not
be set when it first saw the release, which is never before the release was: once the cool-down has passed since then,
it has passed, whatever any clock says. What was written is used for one thing: a release that lies back by more than
the cool-down *and* `SKEW` is long over, even if this process has only just started. A time in the future is nothing
of the kind, and so counts as now.

The price: after a start, an address freed within the last hour waits for one cool-down more. The addresses that were
never used, and all other blocks, serve meanwhile.
"""

from __future__ import annotations

from services.ipam.blocks import Block, Cooling
from services.ipam.clock import Clock

SKEW = 3_900.0
"""Seconds that two clocks may be apart: an hour, and a little."""

OVER = float("-inf")
"""Ready since whenever."""

Seen = dict[int, tuple[int, float]]
"""By ordinal: the sequence number of the assignment that ended, and when that was first seen (`Clock.passed`)."""


def see(block: Block, before: Seen, clock: Clock) -> Seen:
    """What is known of a block's releases, now that it is this."""
    if not block.cooling:
        return {}
    now = clock.passed()
    return {ordinal: known if (known := before.get(ordinal)) and known[0] == freed.sequence else (freed.sequence, now)
            for ordinal, freed in block.cooling.items()}


def ready_at(ordinal: int, freed: Cooling, seen: Seen, seconds: float, clock: Clock) -> float:
    """When (`Clock.passed`) a freed address may be given again; `OVER` if that is long ago."""
    if clock.wall_ms() - freed.released_ms > (seconds + SKEW) * 1000:
        return OVER
    known = seen.get(ordinal)
    since = known[1] if known and known[0] == freed.sequence else clock.passed()
    return since + seconds
