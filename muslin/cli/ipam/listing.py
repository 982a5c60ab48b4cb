"""`muslin ipam show` and the lists: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.console import Console
from muslin.cli.ipam import address, bar, usage, views
from muslin.cli.ipam.client import LONG, QUICK, Client, connected
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.output import plain, plains, structured
from muslin.cli.ipam.table import Look
from muslin.cli.ipam.usage import Ranges
from muslin.rpc import translated

__all__ = ["Shown", "show", "show_address", "pools", "reservations", "settings"]


@dataclass(frozen=True, slots=True)
class Shown:
    """What `show` is to show. `node` limits it to one node's; pools are not then shown."""

    blocks: bool = False
    nodes: bool = False
    handles: bool = False
    node: str = ""


async def show(where: Where, form: str, shown: Shown) -> None:
    """How full pools are, and blocks and nodes and who holds what if that is asked for."""
    async with connected(where) as client:
        reserved = Ranges(await client.reservations())
        pools = await client.pools() if not shown.node else []
        blocks = usage.of_blocks(await client.blocks(reserved, shown.node), reserved)
        handles = await _handles(client, shown.node) if shown.handles else []
    by_pool, by_node = usage.of_pools(pools, blocks), usage.of_nodes(blocks)
    look = Look.of_stdout()
    parts: list[tuple[str, str, list[dict[str, Any]]]] = []
    if not shown.node:
        parts.append(("pools", views.pools(by_pool, look), [_pool(use) for use in by_pool]))
    if shown.nodes:
        parts.append(("nodes", views.nodes(by_node, look), [_node(use) for use in by_node]))
    if shown.blocks:
        parts.append(("blocks", views.blocks(blocks, look), [_block(use) for use in blocks]))
    if shown.handles:
        parts.append(("handles", views.handles(handles, look), plains(handles)))
    if form != "table":
        Console().result(structured({name: values for name, _, values in parts}, form))
        return
    bars = any(values for name, _, values in parts if name != "handles")
    Console().result("\n\n".join([*(text for _, text, _ in parts), *([bar.legend(look)] if bars else [])]))


async def show_address(where: Where, form: str, wanted: str) -> None:
    """All that is known of an address."""
    async with connected(where) as client:
        found = await client.lookup(wanted)
        pool = next((pool for pool in await client.pools() if pool.name == found.pool), None)
    Console().result(address.describe(wanted, found, pool) if form == "table" else structured(
        {"address": wanted, **plain(found)}, form))


async def pools(where: Where, form: str) -> None:
    """The pools and their settings."""
    async with connected(where) as client:
        listed = await client.pools()
    Console().result(views.pool_list(listed, Look.of_stdout()) if form == "table"
                     else structured({"pools": plains(listed)}, form))


async def reservations(where: Where, form: str) -> None:
    """The reservations."""
    async with connected(where) as client:
        listed = await client.reservations()
    Console().result(views.reservations(listed, Look.of_stdout()) if form == "table"
                     else structured({"reservations": plains(listed)}, form))


async def settings(where: Where, form: str, changes: dict[str, Any]) -> None:
    """Change settings by name of the field of Config, and show all."""
    async with connected(where) as client:
        with translated("ipam: read the settings"):
            config = (await client.stub.GetConfig(ipam_pb2.GetConfigRequest(), timeout=QUICK)).config
        if changes:
            for name, value in changes.items():
                setattr(config, name, value)
            with translated("ipam: configure"):
                request = ipam_pb2.SetConfigRequest(config=config)
                config = (await client.stub.SetConfig(request, timeout=QUICK)).config
    Console().result(views.config(config) if form == "table" else structured(plain(config), form))


async def _handles(client: Client, node: str) -> Sequence[ipam_pb2.Handle]:
    with translated("ipam: list handles"):
        return (await client.stub.ListHandles(ipam_pb2.ListHandlesRequest(node=node), timeout=LONG)).handles


def _pool(use: usage.PoolUse) -> dict[str, Any]:
    return {**plain(use.pool), "borrowed": use.usage.borrowed, "free": use.usage.free}


def _block(use: usage.BlockUse) -> dict[str, Any]:
    values = {**plain(use.block), "reserved": use.usage.reserved, "free": use.usage.free}
    del values["slots"]  # there only if reservations have to be set off
    return values


def _node(use: usage.NodeUse) -> dict[str, Any]:
    counts = use.usage
    return {"node": use.node, "blocks": use.blocks, "size": counts.size, "used": counts.used,
            "cooling": counts.cooling, "reserved": counts.reserved, "borrowed": counts.borrowed, "free": counts.free}
