"""What is wired on this node, and one operation at a time on each of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from services.node import metrics
from services.node.attachment import Attachment

__all__ = ["Attachments"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Attachments:
    """What is wired here, and one operation at a time on each.

    An operation is a task of its own: when its caller goes away it is told once, and undoes what it did, with the
    attachment locked until it has.
    """

    def __init__(self) -> None:
        self.interfaces: dict[Attachment, str] = {}
        self._locks: dict[Attachment, tuple[asyncio.Lock, int]] = {}
        self._running: set[asyncio.Task[Any]] = set()

    def add(self, attachment: Attachment, interface: str) -> None:
        """An attachment is wired; the one that had its interface before is not any more."""
        for other in [a for a, name in self.interfaces.items() if name == interface]:
            del self.interfaces[other]
        self.interfaces[attachment] = interface
        metrics.ATTACHMENTS.set(len(self.interfaces))

    def remove(self, attachment: Attachment) -> None:
        """An attachment is wired no more."""
        self.interfaces.pop(attachment, None)
        metrics.ATTACHMENTS.set(len(self.interfaces))

    def owner(self, interface: str) -> Attachment | None:
        """The attachment that has a host interface."""
        return next((a for a, name in self.interfaces.items() if name == interface), None)

    def busy(self, attachment: Attachment) -> bool:
        """Whether an operation is under way on it, or waits."""
        return attachment in self._locks

    async def run(self, attachment: Attachment, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run an operation on an attachment, after those that came before."""
        async def serialised() -> T:
            async with self._lock(attachment):
                return await operation()

        task = asyncio.get_running_loop().create_task(serialised(), name=f"attachment {attachment}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            task.add_done_callback(_forgotten)
            raise

    @asynccontextmanager
    async def _lock(self, attachment: Attachment) -> AsyncIterator[None]:
        # Held across awaits on purpose: it orders the operations of one attachment, and no two attachments share it.
        lock, users = self._locks.get(attachment, (asyncio.Lock(), 0))
        self._locks[attachment] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(attachment)
            if users > 1:
                self._locks[attachment] = lock, users - 1

    async def aclose(self) -> None:
        """Wait until no operation is under way."""
        await asyncio.gather(*self._running, return_exceptions=True)


def _forgotten(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (failure := task.exception()) is not None:
        log.info("%s, given up by its caller, ended with: %s", task.get_name(), failure)
