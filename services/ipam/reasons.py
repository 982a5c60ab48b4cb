"""Why there is no address: said so that whoever reads it knows what to change."""

from __future__ import annotations

from collections.abc import Collection

from services.ipam import pools
from services.ipam.config import Config
from services.ipam.handles import Request
from services.ipam.pools import Pool
from services.ipam.step import Step
from services.ipam.view import View


def no_claim(config: Config, node: str, owned: int) -> str:
    """Why a node may claim no block; empty if it may."""
    if config.no_automatic_blocks:
        return "nodes claim no blocks by themselves (no_automatic_blocks)"
    if owned >= config.max_blocks_per_node:
        return f"node {node} has {owned} of at most {config.max_blocks_per_node} blocks"
    return ""


def exhausted(step: Step, request: Request, family: int, usable: Collection[Pool], owned: int) -> str:
    """The pools tried and why none of them gave an address."""
    view, config, node = step.view, step.view.settings(), request.handle.node
    tried = list(request.pools.get(family, ())) or [
        pool.name for pool in view.pools() if pools.family(pool) == family]
    said = [_pool(view, name, family, usable) for name in tried]
    if usable:
        if why := no_claim(config, node, owned):
            said.append(why)
        if config.strict_affinity:
            said.append(f"affinity is strict, so node {node} does not borrow from others' blocks")
    kind = f"IPv{family} " if family == 6 or set(request.families) != {4} else ""
    if family in request.pools and not request.pools[family]:
        what = "no pool may be used: none serves this node and namespace"
    else:
        what = "; ".join(said) or f"there is no {kind}pool; create one"
    return f"no {kind}address for {request.identity} on node {node}: {what}"


def _pool(view: View, name: str, family: int, usable: Collection[Pool]) -> str:
    pool = view.pool(name).value
    if pool is None:
        return f"pool {name}: there is no such pool"
    of = f"pool {name} ({pool.cidr})"
    if pools.family(pool) != family:
        return f"{of}: has no IPv{family} addresses"
    if pool not in usable:
        return f"{of}: {'being deleted' if pool.deleting else 'disabled'}"
    tally = view.tally(name)
    said = f"{of}: {tally.used} of {pools.size(pool)} addresses in use"
    if reserved := view.index.reserved.count(pool.cidr):
        said += f", {reserved} reserved"
    cooling, soonest = 0, float("inf")
    for cidr in tally.waiting:
        if block := view.block(cidr).value:
            hot = view.index.cools(block)
            cooling += len(hot)
            soonest = min([soonest, *(view.index.cools_until(block, ordinal) for ordinal in hot)])
    if cooling:
        said += f", {cooling} cooling down (the next is free in {soonest:.0f} s)"
    if tally.damaged:
        said += f", {tally.damaged} blocks damaged"
    if tally.states["orphaned"] or tally.states["leaving"]:
        said += f", {tally.states['orphaned'] + tally.states['leaving']} blocks of nodes that gave them up"
    return said
