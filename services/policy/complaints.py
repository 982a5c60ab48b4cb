"""Events on policies of an API server that are not, or not wholly, in force as their users wrote them.

By the one process that is elected to write what that server has. NetworkPolicy has no status in the API that a server
would keep (docs/adr/0019-nodes-and-events.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from muslin.etcd.mirror import Change
from muslin.kube.client import Client
from muslin.kube.events import Recorder, Subject
from muslin.kube.kinds import Kind, Name, Resource
from muslin.tasks import TaskSet
from services.policy.kubernetes import key_of
from services.policy.objects import POLICY_KINDS
from services.policy.records import ref_of
from services.policy.replica import Replica
from services.policy.sources import Status

__all__ = ["NOT_IN_FORCE", "PARTLY_IN_FORCE", "Complaints"]

NOT_IN_FORCE, PARTLY_IN_FORCE = "PolicyNotInForce", "PolicyPartlyInForce"
_LOOK = 0.5
"""Seconds between two looks: what changes meanwhile is gathered."""
_AGAIN = 1800.0
"""Seconds after which what still holds is said again: API servers forget events after an hour."""


class Complaints:
    """Beside the mirroring (`muslin.kube.mirroring.Aside`)."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._subjects: dict[str, Subject] = {}
        self._said: dict[str, tuple[str, float]] = {}
        """By key what was said of it, and when."""
        self._moved = asyncio.Event()
        replica.mirror.subscribe(self._changed)

    def _changed(self, _changes: Sequence[Change], _revision: int) -> None:
        self._moved.set()

    # What is told

    def begin(self) -> None:
        """A term begins."""
        self._subjects.clear()
        self._said.clear()

    def listed(self, kind: Kind[Any], objects: Sequence[Resource]) -> None:
        """All of a kind."""
        for item in objects:
            self.put(kind, item)

    def put(self, kind: Kind[Any], item: Resource) -> None:
        """An object was made or changed."""
        key = key_of(kind, item.name)
        if ref_of(key).kind in POLICY_KINDS:
            self._subjects[key] = Subject(kind.version, kind.kind, *item.name, item.uid)
            self._moved.set()

    def gone(self, kind: Kind[Any], name: Name) -> None:
        """An object was deleted."""
        key = key_of(kind, name)
        self._subjects.pop(key, None)
        self._said.pop(key, None)

    # What is done

    async def run(self, client: Client) -> None:
        """Complain until cancelled."""
        tasks = TaskSet()
        recorder = Recorder(client, "muslin-policy")
        try:
            tasks.spawn("events", recorder.run())
            tasks.spawn("complaints", self._complain(recorder))
            raise await tasks.failed
        finally:
            await tasks.aclose()

    async def _complain(self, recorder: Recorder) -> None:
        await self._replica.mirror.ready.wait()
        while True:
            self._moved.clear()
            self._look(recorder)
            try:
                async with asyncio.timeout(_AGAIN / 10):
                    await self._moved.wait()
                await asyncio.sleep(_LOOK)
            except TimeoutError:
                pass  # time passes, too

    def _look(self, recorder: Recorder) -> None:
        now, present = time.monotonic(), set()
        for status in self._replica.sources.noted():
            subject = self._subjects.get(key := status.key)
            if subject is None:
                continue  # it is not the API server's
            present.add(key)
            said, at = self._said.get(key, ("", 0.0))
            if (message := _message(status)) != said or now - at >= _AGAIN:
                self._said[key] = message, now
                recorder.warn(subject, PARTLY_IN_FORCE if status.accepted else NOT_IN_FORCE, message)
        for key in self._said.keys() - present:
            del self._said[key]


def _message(status: Status) -> str:
    return "; ".join(f"{condition.path}: {condition.message}" if condition.path else condition.message
                     for condition in status.conditions)
