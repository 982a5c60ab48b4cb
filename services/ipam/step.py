"""One decision as it grows.

What it reads is the view and the transaction so far; what it writes joins the transaction only if all of it succeeds.
So an attachment gets an address of each family that it asked for, or none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from muslin.etcd import keys
from services.ipam.blocks import Block
from services.ipam.view import View


class Wait(Exception):
    """The decision has to wait for a block that another transaction of this process is writing."""


class Step:
    """Records as this decision leaves them."""

    def __init__(self, view: View, before: Mapping[str, Block], busy: Collection[str],
                 of_nodes: Mapping[str, Collection[str]]) -> None:
        """`before` are the blocks that the transaction changes already, by CIDR; `of_nodes` which of them are whose."""
        self.view = view
        self.expect: dict[str, int] = {}
        self.writes: dict[str, bytes | None] = {}
        self.changed: dict[str, Block] = {}
        self.pools: set[str] = set()
        self._before, self._busy, self._of_nodes = before, busy, of_nodes

    def block(self, cidr: str) -> Block | None:
        """A block as it is by now."""
        return self.changed.get(cidr) or self._before.get(cidr) or self.view.block(cidr).value

    def begun(self) -> list[Block]:
        """The blocks that this transaction changes already."""
        return [*self.changed.values(), *(block for cidr, block in self._before.items() if cidr not in self.changed)]

    def begun_by(self, node: str) -> Iterator[Block]:
        """Those of them that are a node's."""
        if self.changed:
            yield from [block for block in self.changed.values() if block.node == node]
        for cidr in self._of_nodes.get(node, ()):
            if cidr not in self.changed:
                yield self._before[cidr]

    def begins(self, cidr: str) -> bool:
        """Whether this transaction changes a block already."""
        return cidr in self.changed or cidr in self._before

    def busy(self, cidr: str) -> bool:
        """Whether another transaction is writing the block."""
        return cidr in self._busy

    def change(self, block: Block) -> None:
        """Write a block."""
        if block.cidr in self._busy:
            raise Wait
        self.expect[keys.block(block.cidr)] = self.view.block(block.cidr).revision
        self.changed[block.cidr] = block

    def rests_on(self, key: str) -> None:
        """The decision holds only while a record is as the view has it."""
        self.expect[key] = self.view.revision(key)
