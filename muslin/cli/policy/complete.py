"""Names for shell completion, as the running services know them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from muslin.cli.client import services
from muslin.errors import MuslinError

__all__ = ["pods"]

PATIENCE = 1.0
"""Seconds that somebody who pressed Tab waits."""


def pods(run: Path) -> list[str]:
    """The pods that have endpoints, sorted; none if nothing tells them in time."""
    try:
        return asyncio.run(asyncio.wait_for(_pods(run), PATIENCE))
    except (MuslinError, OSError, TimeoutError):
        return []


async def _pods(run: Path) -> list[str]:
    async with services(run) as up:
        return sorted({f"{record.namespace}/{record.pod}" for record in await up.endpoints() if record.pod})
