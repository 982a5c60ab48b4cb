"""How long to wait before trying again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Delays in seconds that double from `first` to `most`, each cut by up to half at random.

    The randomness keeps clients that lost the same member at the same moment from coming back at the same moment.
    """

    def __init__(self, first: float = 0.05, most: float = 2.0) -> None:
        self._first = first
        self._most = most
        self._next = first

    def next(self) -> float:
        """The delay before the next attempt."""
        delay = self._next
        self._next = min(delay * 2, self._most)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 -- spreads load, guards no secret

    def reset(self) -> None:
        """Begin anew: the last attempt was a success worth the name."""
        self._next = self._first
