"""The CHECK verb: whether an attachment still holds what ADD answered. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from muslin.cni.result import Result
from services.ipam import blocks
from services.ipam.handles import Handle
from services.ipam.view import View


def differences(view: View, handle: Handle, node: str, before: Result, *, shared: bool) -> Iterator[str]:
    """What handle, blocks and the result of ADD do not agree on, for people.

    Other plugins of the list may have added addresses: what prevResult has beyond the handle's is not looked at. With
    `shared` the interface may be one that was on another network first, and prevResult have that one's address.
    """
    if handle.node != node:
        yield f"node: the handle says {handle.node}, this is {node}"
    answered = {ip.address.partition("/")[0] for ip in before.ips}
    for held in handle.addresses:
        if held.address not in answered and not shared:
            yield f"addresses: the handle has {held.address}, prevResult has not"
        block = view.block(held.block).value
        ordinal = blocks.ordinal_of(block, held.address) if block else None
        slot = block.held.get(ordinal) if block and ordinal is not None else None
        if slot is None:
            yield f"addresses: the handle has {held.address}, block {held.block} says that nobody holds it"
        elif (slot.handle, slot.sequence) != (handle.identity, held.sequence):
            yield f"addresses: the handle has {held.address}, block {held.block} says that {slot.handle} holds it"
