"""Requests that wait to be committed, and the lanes in which they do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from muslin.errors import TimedOut
from services.ipam.outcomes import Outcome
from services.ipam.plan import Asked

__all__ = ["Answer", "Lane", "Waiting", "together"]

Answer = Callable[[Outcome | Exception], None]
"""Takes what became of a request: Granted, Freed, or the error."""


class Waiting:
    """A request, until it is settled: answered or given up."""

    __slots__ = ("_answer", "alone", "confirmed", "conflicts", "failures", "identity", "left", "node", "request",
                 "settled")

    def __init__(self, request: Asked, identity: str, node: str, answer: Answer) -> None:
        self.request, self.identity, self.node = request, identity, node
        self.settled = False
        self.alone = False
        """It was refused together with others, which may be the reason."""
        self.failures = self.conflicts = 0
        self.left = False
        """It has left its lane."""
        self.confirmed = False
        """The view was brought up to date for it after no address was found."""
        self._answer = answer

    def settle(self, outcome: Outcome | Exception) -> None:
        """Answer it, once."""
        if not self.settled:
            self.settled = True
            self._answer(outcome)

    def expire(self, seconds: float) -> None:
        """Its time is over."""
        self.settle(TimedOut(f"{self.identity}: no answer within {seconds:.1f} s; whether it was done is unknown, "
                             "ask again"))

    def give_up(self) -> None:
        """Nobody waits for it any more: it is forgotten, if its transaction is not under way."""
        self.settled = True


@dataclass
class Lane:
    """Requests that wait their turn."""

    queue: deque[Waiting] = field(default_factory=deque)
    running: bool = False


def together(first: Waiting, other: Waiting) -> bool:
    """Whether a request may be in one transaction with the first of it."""
    if first.alone or other.alone:
        return False
    return first.node == other.node or not (first.conflicts or other.conflicts)
