"""`muslin ipam pool` and `muslin ipam reserve`: making, changing and deleting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.console import Console
from muslin.cli.ipam.client import QUICK, connected
from muslin.cli.ipam.options import Where
from muslin.cli.ipam.output import plain, structured
from muslin.cli.ipam.usage import size
from muslin.cli.ipam.views import cool_down, count
from muslin.rpc import translated

__all__ = ["create_pool", "update_pool", "delete_pool", "create_reservation", "delete_reservation"]


async def create_pool(where: Where, form: str, fields: dict[str, Any]) -> None:
    """Add a pool with the given fields of Pool."""
    async with connected(where) as client:
        with translated("ipam: create pool"):
            request = ipam_pb2.CreatePoolRequest(pool=ipam_pb2.Pool(**fields))
            pool = (await client.stub.CreatePool(request, timeout=QUICK)).pool
    Console().result(f"pool {pool.name} created: {_described(pool)}" if form == "table"
                     else structured(plain(pool), form))


async def update_pool(where: Where, form: str, name: str, fields: dict[str, Any]) -> None:
    """Change the given fields of a pool."""
    async with connected(where) as client:
        with translated("ipam: update pool"):
            request = ipam_pb2.UpdatePoolRequest(name=name, **fields)
            pool = (await client.stub.UpdatePool(request, timeout=QUICK)).pool
    Console().result(f"pool {pool.name} updated: {_described(pool)}" if form == "table"
                     else structured(plain(pool), form))


async def delete_pool(where: Where, name: str) -> None:
    """Remove a pool that is not in use."""
    async with connected(where) as client:
        with translated("ipam: delete pool"):
            await client.stub.DeletePool(ipam_pb2.DeletePoolRequest(name=name), timeout=QUICK)
    Console().result(f"pool {name} deleted")


async def create_reservation(where: Where, form: str, name: str, cidrs: Sequence[str]) -> None:
    """Keep addresses from being handed out; those that are held stay, and are named."""
    console = Console()
    async with connected(where) as client:
        with translated("ipam: reserve"):
            reservation = ipam_pb2.Reservation(name=name, cidrs=cidrs)
            answer = await client.stub.CreateReservation(
                ipam_pb2.CreateReservationRequest(reservation=reservation), timeout=QUICK)
    if form != "table":
        console.result(structured(plain(answer), form))
        return
    console.result(f"reservation {answer.reservation.name} created: {' '.join(answer.reservation.cidrs)}")
    for address in answer.held:
        console.warn(f"{address} is held and stays so until it is released; see: muslin ipam show --ip {address}")


async def delete_reservation(where: Where, name: str) -> None:
    """Let addresses be handed out again."""
    async with connected(where) as client:
        with translated("ipam: delete reservation"):
            await client.stub.DeleteReservation(ipam_pb2.DeleteReservationRequest(name=name), timeout=QUICK)
    Console().result(f"reservation {name} deleted")


def _described(pool: ipam_pb2.Pool) -> str:
    parts = [pool.cidr, f"blocks of /{pool.block_size}", f"{count(size(pool))} addresses",
             f"cool-down {cool_down(pool)} s"]
    if pool.node_selector:
        parts.append(f"for nodes {pool.node_selector}")
    if pool.namespace_selector:
        parts.append(f"for namespaces {pool.namespace_selector}")
    return ", ".join([*parts, "disabled"] if pool.disabled else parts)
