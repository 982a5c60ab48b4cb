"""Ctrl-C, SIGTERM and a closed terminal: the work is cancelled once, and not disturbed while it cleans up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Interrupted", "run"]

T = TypeVar("T")


class Interrupted(Exception):
    """The work was stopped by a signal, after it cleaned up."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that the signal ended."""
        return 128 + self.number


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. Raises Interrupted if a signal cancelled it before."""
    return asyncio.run(_guarded(work))


async def _guarded(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work, name="command")
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not caught:
            task.cancel()
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup(1) leaves SIGHUP
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if caught:
            raise Interrupted(caught[0]) from None
        raise
