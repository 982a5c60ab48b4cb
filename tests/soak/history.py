"""What was asked, what was answered, and what that must not be.

An answer that never came says nothing: the operation may have been done, or may yet be. So an attachment holds an
address for certain only from an answered ADD until its first DEL is asked for; in that time the address is nobody
else's, and a repeated ADD gives the same. From the moment its DEL is asked for the address cools down.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

__all__ = ["Attachment", "History", "Operation", "Outcome"]


class Outcome(StrEnum):
    """How an operation ended for its caller."""

    PENDING = "pending"
    OK = "ok"
    FAIL = "fail"
    """Answered: it was not done."""
    UNKNOWN = "unknown"
    """Not answered."""


@dataclass(frozen=True)
class Attachment:
    """A sandbox of a pod."""

    container: str
    pod: str
    node: str

    @property
    def identity(self) -> str:
        """As the address manager names it."""
        return f"soak/{self.container}/eth0"


@dataclass
class Operation:
    """One request; times in seconds of the monotonic clock."""

    verb: str
    container: str
    begun: float
    ended: float = 0.0
    outcome: Outcome = Outcome.PENDING
    address: str = ""


class History:
    """All operations, and the violations found. `cool_down` in seconds is the pool's."""

    def __init__(self, cool_down: float) -> None:
        self.operations: list[Operation] = []
        self.violations: list[str] = []
        self.made = 0
        """Attachments that got an address."""
        self.live: dict[Attachment, str] = {}
        """The addresses that are held for certain."""
        self._cool_down = cool_down
        self._holders: dict[str, Attachment] = {}
        self._freed: dict[str, tuple[float, str]] = {}
        self._deleted: set[str] = set()

    def invoke(self, verb: str, attachment: Attachment) -> Operation:
        """An operation begins."""
        operation = Operation(verb, attachment.container, time.monotonic())
        self.operations.append(operation)
        if verb == "DEL":
            self._deleted.add(attachment.container)
            if address := self.live.pop(attachment, ""):
                del self._holders[address]
                self._freed[address] = operation.begun, attachment.pod
        return operation

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """An operation ends without an address."""
        operation.ended, operation.outcome = time.monotonic(), outcome

    def given(self, operation: Operation, attachment: Attachment, address: str) -> None:
        """An ADD is answered with an address."""
        self.end(operation, Outcome.OK)
        operation.address = address
        if attachment.container in self._deleted:
            return  # its DEL is under way
        if (before := self.live.get(attachment)) is not None:
            if before != address:
                self.violation(f"{attachment.identity} was given {before}, and then {address}")
            return
        if (holder := self._holders.get(address)) is not None:
            self.violation(f"{address} was given to {attachment.identity} while {holder.identity} holds it")
        freed, pod = self._freed.get(address, (0.0, ""))
        if pod != attachment.pod and operation.ended < freed + self._cool_down and freed:
            self.violation(f"{address} was given again {operation.ended - freed:.2f} s after its release was asked for")
        self.made += 1
        self.live[attachment] = address
        self._holders[address] = attachment

    def violation(self, what: str) -> None:
        """Something that must not be, is."""
        self.violations.append(what)

    def counts(self) -> Counter[str]:
        """Operations by outcome."""
        return Counter(operation.outcome.value for operation in self.operations)

    def write(self, path: Path) -> None:
        """All operations, a JSON object a line."""
        path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.operations), encoding="utf-8")
