"""Nodes as people read them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cli.ipam.output import plain
from muslin.cli.ipam.table import Column, Look, table

__all__ = ["Seen", "drained", "left", "listed", "shown", "state"]

_COLUMNS = (Column("NODE", shrink=True), Column("STATE"), Column("BLOCKS", right=True),
            Column("ADDRESSES", right=True), Column("LAG"), Column("REACHED AT", shrink=True, least=12),
            Column("VERSION", spare=True))


@dataclass(frozen=True, slots=True)
class Seen:
    """A node, by what each service knows of it; None where it knows nothing."""

    name: str
    host: endpoint_pb2.Host | None = None
    use: ipam_pb2.NodeUse | None = None
    policy: policy_pb2.NodeStatus | None = None

    def plain(self) -> dict[str, Any]:
        """As values, with the field names of the API."""
        return {"node": self.name, **{name: plain(of) if of is not None else None for name, of in (
            ("host", self.host), ("use", self.use), ("policy", self.policy))}}


def state(seen: Seen) -> str:
    """Whether it serves, in a word, and whether it is drained."""
    if seen.host is None:
        word = "unknown"
    elif not seen.host.present:
        word = "silent"
    else:
        word = "not ready" if seen.host.trouble else "ready"
    return f"{word}, drained" if seen.use is not None and seen.use.draining else word


def listed(seen: Sequence[Seen], look: Look) -> str:
    """A line for each."""
    if not seen:
        return "no node has announced itself, has addresses or policy"
    return table(_COLUMNS, [(each.name, state(each), *_used(each), _lag(each), _reached(each), _version(each))
                            for each in seen], look)


def shown(seen: Seen, blocks: Sequence[ipam_pb2.Block]) -> str:
    """One, in full."""
    used, addresses = _used(seen)
    lines = [("node", seen.name), ("state", state(seen)), ("version", _version(seen)), ("reached at", _reached(seen)),
             ("addresses", addresses), ("policy lag", _lag(seen)), ("blocks", used)]
    if seen.host is not None and seen.host.trouble:
        lines.insert(2, ("trouble", seen.host.trouble))
    text = [f"{name + ':':<12}{value}" for name, value in lines]
    for block in blocks:
        affinity = ipam_pb2.Block.Affinity.Name(block.affinity).removeprefix("AFFINITY_").replace("_", " ").lower()
        text.append(f"  {block.cidr}  {block.used} of {block.size} used, {block.cooling} cooling, {affinity}")
    return "\n".join(text)


def left(use: ipam_pb2.NodeUse) -> str:
    """What a node still has."""
    return f"addresses left: {use.addresses}, blocks left: {use.blocks}"


def drained(answer: ipam_pb2.DrainNodeResponse) -> str:
    """What draining, or its end, came to."""
    use = answer.left
    if not use.draining:
        has = f"{_counted(use.addresses, 'address', 'es')} and {_counted(use.blocks, 'block', 's')}"
        return f"node {use.node} gets addresses again; it has {has}"
    released = f"; released {' '.join(answer.released)}" if answer.released else ""
    if not (use.blocks or use.addresses):
        return f"node {use.node} is drained of addresses, and has none{released}"
    return f"node {use.node} gets no new address; {left(use)}{released}"


def _counted(count: int, what: str, plural: str) -> str:
    return f"{count} {what}{'' if count == 1 else plural}"


def _used(seen: Seen) -> tuple[str, str]:
    return (str(seen.use.blocks), str(seen.use.addresses)) if seen.use is not None else ("-", "-")


def _lag(seen: Seen) -> str:
    if seen.policy is None or not seen.policy.connected:
        return "-"
    return f"{seen.policy.lag_seconds:.1f} s" if seen.policy.lag_seconds else "none"


def _reached(seen: Seen) -> str:
    return " ".join(seen.host.addresses) if seen.host is not None and seen.host.addresses else "-"


def _version(seen: Seen) -> str:
    return (seen.host.version if seen.host is not None else "") or "-"
