"""What is refused is counted, and said in the log; a flood of it does not become a flood of lines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from muslin import metrics

__all__ = ["Refusals", "refused"]

log = logging.getLogger(__name__)

_LINES = 5
"""Lines for one reason in one second at most."""


class Refusals:
    """One for each process. Safe for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int, int]] = {}  # by reason: when its second began, lines, unsaid

    def __call__(self, reason: str, who: str, what: str) -> None:
        """Count it. `reason` is a word from the code, never from a caller: it labels the metric."""
        metrics.RPC_REFUSED.labels(reason).inc()
        with self._lock:
            now = self._clock()
            began, lines, unsaid = self._said.get(reason, (now, 0, 0))
            if now - began >= 1:
                began, lines = now, 0
            say = lines < _LINES
            self._said[reason] = (began, lines + 1, 0) if say else (began, lines, unsaid + 1)
        if say:
            more = f" (and {unsaid} more before this one)" if unsaid else ""
            log.warning("refused reason=%s from=%s: %s%s", reason, who, what, more)


refused = Refusals()
"""This process'."""
