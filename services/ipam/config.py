"""Settings that hold for all pools."""

from __future__ import annotations

import msgspec

MAX_BLOCKS = 20
"""Blocks that a node may have, if nobody says otherwise."""


class Config(msgspec.Struct, frozen=True):
    """As stored. What rests on it (claiming a block, borrowing) is committed on condition that it is unchanged."""

    strict_affinity: bool = False
    """A node assigns from its own blocks only, and never borrows."""
    max_blocks_per_node: int = MAX_BLOCKS
    """Of all pools and both families together."""
    no_automatic_blocks: bool = False
    """A node claims no new block by itself."""
