"""The STATUS verb: whether an ADD would be served now, and whether pods that run are touched. From memory alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from muslin.errors import FailedPrecondition, MuslinError, Unavailable
from muslin.rpc import Readiness

__all__ = ["STALE_SECONDS", "Standing"]

STALE_SECONDS = 10.0
"""How long the program may not be followed before what is enforced counts as old. An ADD waits that long for it, and
a policy service that is started anew takes less."""


class Standing:
    """How long each part of readiness has not been ready."""

    def __init__(self, readiness: Readiness, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._readiness = readiness
        self._clock = clock
        self._since: dict[str, float] = {}
        readiness.listeners.append(self._changed)

    def _changed(self) -> None:
        now = self._clock()
        for part in self._readiness.parts.values():
            if part.ready:
                self._since.pop(part.name, None)
            else:
                self._since.setdefault(part.name, now)

    def problem(self, *, enforcing: bool) -> MuslinError | None:
        """Why an ADD would not be served; None if it would. `enforcing` is whether any program is in force.

        Unavailable becomes the specification's code 50. FailedPrecondition becomes 51: the policy of pods that run is
        not followed any more (CNI specification 1.1, "STATUS").
        """
        self._changed()
        waiting = [part for part in self._readiness.parts.values() if not part.ready]
        if not waiting:
            return None
        words = "; ".join(f"{part.name}: {part.message}" for part in waiting)
        if not enforcing:
            return Unavailable(f"no pod can be attached yet: {words}")
        now = self._clock()
        old = [now - self._since[part.name] for part in waiting if now - self._since[part.name] >= STALE_SECONDS]
        if old:
            return FailedPrecondition("no pod can be attached, and for pods that run policies changed in the last "
                                      f"{max(old):.0f} s may not be in force: {words}")
        return None
