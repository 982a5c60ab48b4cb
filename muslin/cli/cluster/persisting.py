"""Doing a thing again until it is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from muslin.errors import MuslinError
from muslin.etcd.backoff import Backoff

__all__ = ["persist"]


async def persist(work: Callable[[], Awaitable[None]], backoff: Backoff, log: logging.Logger, trouble: str) -> None:
    """Do it until it is done once, however long that takes; what stands in its way is logged whenever that changes."""
    said = ""
    while True:
        try:
            await work()
        except MuslinError as problem:
            if problem.message != said:
                said = problem.message
                log.warning("%s: %s", trouble, said)
            await asyncio.sleep(backoff.next())
        else:
            return
