"""Names for shell completion, as the running address manager knows them."""

from __future__ import annotations

import asyncio

from muslin.cli.ipam.client import Client, connected
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.usage import Ranges
from muslin.errors import MuslinError

__all__ = ["names"]

PATIENCE = 1.0
"""Seconds that somebody who pressed Tab waits."""


def names(where: Where, kind: str) -> list[str]:
    """The names of a kind, sorted; none if the address manager does not tell in time."""
    try:
        return asyncio.run(asyncio.wait_for(_names(where, kind), PATIENCE))
    except (MuslinError, OSError, TimeoutError):
        return []


async def _names(where: Where, kind: str) -> list[str]:
    async with connected(where) as client:
        return await _KINDS[kind](client)


async def _pools(client: Client) -> list[str]:
    return [pool.name for pool in await client.pools()]


async def _reservations(client: Client) -> list[str]:
    return [item.name for item in await client.reservations()]


async def _nodes(client: Client) -> list[str]:
    return sorted({block.node for block in await client.blocks(Ranges(())) if block.node})


_KINDS = {"pool": _pools, "reservation": _reservations, "node": _nodes}
