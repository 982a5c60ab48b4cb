"""Events: what users see of our troubles with their objects, in `kubectl describe`.

One object of kind Event stands for all that was said of an object for one reason: it counts, and shows the last message
(Kubernetes API, core/v1 Event; the API server forgets it an hour after its last change). Saying something never waits
and never fails: what can not be written is lost in the end, and the log says so once.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from muslin.errors import Conflict, Denied, MuslinError, NotFound, TimedOut, Unauthenticated, Unavailable
from muslin.etcd.backoff import Backoff
from muslin.kube import metrics
from muslin.kube.client import Client

__all__ = ["Limits", "Recorder", "Subject"]

log = logging.getLogger(__name__)

LONGEST = 1000
"""Characters of a message; the API server refuses more than 1,024 bytes in newer versions of the kind."""
_CALL = 10.0
"""Seconds for one request."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that something is said of."""

    version: str
    """Group and version, such as `v1`."""
    kind: str
    namespace: str
    """Empty for what is in none."""
    name: str
    uid: str
    """`kubectl describe` looks for events by it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How often is written, in seconds."""

    again: float = 60.0
    """Between two times that the same is said again of an object: between them it is counted only."""
    other: float = 5.0
    """Until something else is said of it, for the same reason."""
    gap: float = 0.2
    """Between two requests, after a burst."""
    burst: int = 10
    """Requests that may follow each other at once."""
    denied: float = 300.0
    """Until the next attempt, after the API server has said that we may not."""
    most: int = 1000
    """Objects and reasons that are remembered; then the oldest is forgotten, said or not."""


@dataclass(slots=True)
class _Said:
    """All that was said of an object for a reason."""

    message: str
    last: datetime
    first: datetime
    count: int = 0
    written: tuple[int, str] = (0, "")
    """Count and message, as the API server has them."""
    name: str = ""
    """Of the Event; empty before one was asked for."""
    made: bool = False
    """Whether it is known to be there."""
    at: float = 0.0
    """Monotonic time of the last attempt."""
    refused: bool = False
    """Whether that was refused for good."""


@dataclass(slots=True)
class _Purse:
    """A token for each request."""

    limits: Limits
    tokens: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.limits.burst

    async def pay(self) -> None:
        """Take a token, as soon as there is one."""
        now = time.monotonic()
        self.tokens = min(self.tokens + (now - self.at) / self.limits.gap, self.limits.burst) - 1
        self.at = now
        if self.tokens < 0:
            await asyncio.sleep(-self.tokens * self.limits.gap)


class Recorder:
    """Writes events by a client of the owner's; `run()` does it, in a task of the owner's."""

    def __init__(self, client: Client, component: str, limits: Limits | None = None) -> None:
        """`component` is who says it, such as `muslin-endpoint`."""
        self._client, self._component, self._limits = client, component, limits or Limits()
        self._host = socket.gethostname()
        self._said: OrderedDict[tuple[Subject, str], _Said] = OrderedDict()
        self._moved = asyncio.Event()
        self._purse = _Purse(self._limits)
        self._trouble = ""

    def warn(self, subject: Subject, reason: str, message: str) -> None:
        """Say something of an object, that its user should mend. `reason` is a word in CamelCase, for programs."""
        key, now = (subject, reason), datetime.now(UTC)
        text = message if len(message) <= LONGEST else f"{message[:LONGEST - 3]}..."
        said = self._said.setdefault(key, _Said(text, now, now))
        said.message, said.last, said.count = text, now, said.count + 1
        self._said.move_to_end(key)
        while len(self._said) > self._limits.most:
            self._said.popitem(last=False)
        self._moved.set()

    async def run(self) -> None:
        """Write until cancelled."""
        backoff = Backoff(1.0, 60.0)
        while True:
            self._moved.clear()
            due, wait = self._next()
            if due is None:
                try:
                    async with asyncio.timeout(wait):
                        await self._moved.wait()
                except TimeoutError:
                    pass  # something is due
                continue
            await self._purse.pay()
            try:
                await self._write(*due)
            except (Unavailable, TimedOut, Unauthenticated) as problem:
                self._failed(problem)
                await asyncio.sleep(backoff.next())
            except MuslinError as problem:
                self._failed(problem)
            else:
                self._trouble = ""
                backoff.reset()

    def _next(self) -> tuple[tuple[Subject, str, _Said] | None, float | None]:
        """What is to be written now; if nothing is, the seconds until something will be, None if nothing waits."""
        now, soonest = time.monotonic(), None
        for (subject, reason), said in self._said.items():
            if (said.count, said.message) == said.written:
                continue
            pause = self._limits.again if said.message == said.written[1] else self._limits.other
            wait = said.at + (self._limits.denied if said.refused else pause) - now if said.at else 0.0
            if wait <= 0:
                return (subject, reason, said), None
            soonest = wait if soonest is None else min(soonest, wait)
        return None, soonest

    async def _write(self, subject: Subject, reason: str, said: _Said) -> None:
        said.at, told = time.monotonic(), (said.count, said.message)
        path = f"/api/v1/namespaces/{subject.namespace or 'default'}/events"
        said.refused = False
        try:
            if said.made:
                change = {"count": said.count, "message": said.message, "lastTimestamp": _stamp(said.last)}
                try:
                    await self._client.patch(f"{path}/{said.name}", change, _CALL)
                except NotFound:  # forgotten by the API server: it begins anew
                    said.made, said.name = False, ""
            if not said.made:
                # By the same name again where it is not known whether it was made.
                said.name = said.name or f"{subject.name}.{secrets.token_hex(8)}"
                with suppress(Conflict):
                    await self._client.create(path, self._object(said.name, subject, reason, said), _CALL)
                said.made = True
        except (Unavailable, TimedOut, Unauthenticated):
            said.at = 0.0
            raise
        except MuslinError:
            said.refused = True
            raise
        said.written = told
        metrics.EVENTS.inc()

    def _object(self, name: str, subject: Subject, reason: str, said: _Said) -> dict[str, Any]:
        namespace = subject.namespace or "default"
        about = {"apiVersion": subject.version, "kind": subject.kind, "name": subject.name, "uid": subject.uid,
                 **({"namespace": subject.namespace} if subject.namespace else {})}
        return {"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
                "involvedObject": about, "type": "Warning", "reason": reason, "message": said.message,
                "count": said.count, "firstTimestamp": _stamp(said.first), "lastTimestamp": _stamp(said.last),
                "source": {"component": self._component, "host": self._host},
                "reportingComponent": self._component, "reportingInstance": self._host}

    def _failed(self, problem: MuslinError) -> None:
        """The log gets to know a trouble once, until something was written again."""
        metrics.EVENTS_FAILED.inc()
        kind = type(problem).__name__
        if kind == self._trouble:
            return
        self._trouble = kind
        advice = "; a role must allow create and patch of events" if isinstance(problem, Denied) else ""
        log.warning("an event is not written: %s%s", problem.message, advice)


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
