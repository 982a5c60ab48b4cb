"""Time, of two kinds: what the clock on the wall says, which others read and may be wrong; and what has passed here."""

from __future__ import annotations

import time


class Clock:
    """The machine's. Tests have one of their own."""

    def wall_ms(self) -> int:
        """Unix milliseconds. Somebody may set it, and other machines' differ."""
        return time.time_ns() // 1_000_000

    def passed(self) -> float:
        """Seconds since some moment, the same for the life of this process; nobody can set it."""
        return time.monotonic()
