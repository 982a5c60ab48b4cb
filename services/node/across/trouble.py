"""What of a daemon's troubles is worth telling the cluster. Pure."""

from __future__ import annotations

__all__ = ["LASTING", "Trouble"]

LASTING = 10.0
"""Seconds that a trouble of a daemon that served must last: when a policy service restarts, a thousand nodes lose their
stream for a moment, and each word of theirs is written and told to all the others."""


class Trouble:
    """What to say of it."""

    def __init__(self, lasting: float = LASTING) -> None:
        self._lasting = lasting
        self._well: float | None = None  # when the daemon could serve last

    def told(self, trouble: str, now: float) -> str:
        """What to tell of what is amiss at a time, in seconds that never jump; empty if nothing.

        A daemon that has not served yet says so at once: nobody should count on it before.
        """
        if not trouble:
            self._well = now
        return "" if self._well is not None and now - self._well < self._lasting else trouble
