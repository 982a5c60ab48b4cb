"""What there is, as tables for people: pools, blocks, nodes, reservations, settings, findings, problems."""

from __future__ import annotations

import datetime
import ipaddress
import math
from collections.abc import Callable, Sequence

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam.bar import bar, paint
from muslin.cli.ipam.table import Column, Look, table
from muslin.cli.ipam.usage import BlockUse, NodeUse, PoolUse, Usage

__all__ = ["AFFINITY", "blocks", "config", "cool_down", "count", "findings", "handles", "identity", "nodes", "percent",
           "pod", "pool_list", "pools", "printable", "problem_lines", "problems", "reservations", "when"]

DEFAULT_COOL_DOWN = 30
"""Seconds of cool-down of a pool that does not say; see Pool.cool_down_seconds."""
DEFAULT_MAX_BLOCKS = 20
"""Blocks a node may have if the settings do not say; see Config.max_blocks_per_node."""
EXACT = 10 ** 9
"""Counts from which on a power of two is shown: an IPv6 pool is not read digit by digit."""
WIDE = 100
"""Columns of a terminal from which on bars are long."""
AFFINITY = {
    ipam_pb2.Block.AFFINITY_CONFIRMED: "confirmed",
    ipam_pb2.Block.AFFINITY_PENDING: "pending",
    ipam_pb2.Block.AFFINITY_NONE: "none",
    ipam_pb2.Block.AFFINITY_PENDING_DELETION: "being released",
}
NOTHING = "-"


def count(number: int) -> str:
    """A count, exact as long as anyone would read it so."""
    return str(number) if number < EXACT else f"~2^{round(math.log2(number))}"


def percent(usage: Usage) -> str:
    """How much is used: 0 % and 100 % only if that is exact."""
    if usage.used and usage.percent < 1:
        return "<1%"
    return f"{min(int(usage.percent), 99) if usage.used < usage.size else 100 if usage.size else 0}%"


def when(milliseconds: int) -> str:
    """A time in UTC, to the second."""
    return datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def identity(handle: ipam_pb2.Handle) -> str:
    """`network/container/interface`."""
    return f"{handle.attachment.network}/{handle.attachment.container_id}/{handle.attachment.ifname}"


def pools(uses: Sequence[PoolUse], look: Look) -> str:
    """Pools and how full they are."""
    if not uses:
        return "there are no pools; make one with: muslin ipam pool create NAME CIDR"
    lead = [Column("POOL", shrink=True), Column("RANGE"), Column("BLOCKS", right=True, spare=True)]
    rows = [[_state(use.pool), use.pool.cidr, str(use.pool.blocks)] for use in uses]
    return _usage_table(lead, rows, [use.usage for use in uses], look)


def blocks(uses: Sequence[BlockUse], look: Look) -> str:
    """Blocks, whose they are, and how full they are."""
    if not uses:
        return "there are no blocks"
    lead = [Column("BLOCK"), Column("POOL", shrink=True, spare=True), Column("NODE", shrink=True)]
    rows = [[use.block.cidr, use.block.pool, _owner(use.block)] for use in uses]
    return _usage_table(lead, rows, [use.usage for use in uses], look)


def nodes(uses: Sequence[NodeUse], look: Look) -> str:
    """Nodes and how full their blocks are."""
    if not uses:
        return "no node has a block"
    lead = [Column("NODE", shrink=True), Column("BLOCKS", right=True)]
    rows = [[use.node or "(no node)", str(use.blocks)] for use in uses]
    return _usage_table(lead, rows, [use.usage for use in uses], look)


def handles(listed: Sequence[ipam_pb2.Handle], look: Look) -> str:
    """Who holds which address, by address."""
    if not listed:
        return "no address is held"
    columns = [Column("ADDRESSES"), Column("NODE", shrink=True), Column("POD", shrink=True),
               Column("ATTACHMENT", shrink=True), Column("SINCE", spare=True)]
    rows = [[" ".join(handle.addresses), handle.node, pod(handle), identity(handle),
             when(handle.created_ms) if handle.created_ms else NOTHING] for handle in sorted(listed, key=_first)]
    return table(columns, rows, look)


def _first(handle: ipam_pb2.Handle) -> tuple[int, int]:
    """What handles are sorted by."""
    address = ipaddress.ip_address(handle.addresses[0]) if handle.addresses else ipaddress.IPv4Address(0)
    return address.version, int(address)


def pool_list(listed: Sequence[ipam_pb2.Pool], look: Look) -> str:
    """Pools and what is set for them."""
    if not listed:
        return pools((), look)
    columns = [Column("POOL", shrink=True), Column("RANGE"), Column("BLOCK SIZE", right=True, spare=True),
               Column("STATE"), Column("COOL-DOWN", right=True, spare=True), Column("NODES", shrink=True),
               Column("NAMESPACES", shrink=True), Column("BETWEEN NODES", spare=True), Column("MASQUERADE", spare=True)]
    rows = [[pool.name, pool.cidr, f"/{pool.block_size}", "disabled" if pool.disabled else "enabled",
             f"{cool_down(pool)} s", pool.node_selector or "all", pool.namespace_selector or "all",
             pool.encapsulation or "by node", _yes(not pool.HasField("masquerade") or pool.masquerade)]
            for pool in listed]
    return table(columns, rows, look)


def cool_down(pool: ipam_pb2.Pool) -> int:
    """Seconds for which a freed address of a pool is not given again."""
    return pool.cool_down_seconds if pool.HasField("cool_down_seconds") else DEFAULT_COOL_DOWN


def reservations(listed: Sequence[ipam_pb2.Reservation], look: Look) -> str:
    """Reservations and their ranges."""
    if not listed:
        return "there are no reservations"
    return table([Column("RESERVATION", shrink=True), Column("ADDRESSES", shrink=True)],
                 [[item.name, " ".join(item.cidrs)] for item in listed], look)


def config(settings: ipam_pb2.Config) -> str:
    """The settings, one a line."""
    return "\n".join([
        f"strict affinity    {_yes(settings.strict_affinity)}",
        f"max blocks a node  {settings.max_blocks_per_node or DEFAULT_MAX_BLOCKS}",
        f"automatic blocks   {_yes(not settings.no_automatic_blocks)}"])


def findings(found: Sequence[ipam_pb2.Finding], look: Look, *, dry_run: bool) -> str:
    """What nobody claims, and the count as the last line."""
    freed = sum(finding.freed for finding in found)
    verb = "would be freed" if dry_run else "freed"
    last = f"{len(found)} found, {freed} {verb}"
    if not found:
        return "nothing is left over"
    columns = [Column("WHAT", shrink=True), Column("ADDRESSES"), Column("NODE", shrink=True, spare=True),
               Column("POD", shrink=True), Column("FIRST SEEN", spare=True), Column("FREED"),
               Column("WHY", shrink=True, least=30)]
    rows = [[*_what(finding), when(finding.since_ms) if finding.since_ms else NOTHING, _yes(finding.freed),
             finding.reason] for finding in found]
    return f"{table(columns, rows, look)}\n{last}"


def _what(finding: ipam_pb2.Finding) -> list[str]:
    """What a finding is, its addresses, node and pod."""
    handle = finding.handle
    if not finding.HasField("handle"):
        return ["empty block", finding.block, NOTHING, NOTHING]
    return [identity(handle), " ".join(handle.addresses), handle.node or NOTHING, pod(handle)]


def pod(handle: ipam_pb2.Handle) -> str:
    """`namespace/pod`, or a dash outside Kubernetes."""
    return f"{handle.namespace}/{handle.pod}" if handle.pod else NOTHING


def problem_lines(found: Sequence[ipam_pb2.Problem]) -> list[str]:
    """A line for each problem: its kind, what it is about, the details, whose it is. Never shortened."""
    lines = []
    for problem in found:
        name = ipam_pb2.Problem.Kind.Name(problem.kind) if problem.kind in ipam_pb2.Problem.Kind.values() else "KIND_?"
        kind = name.removeprefix("KIND_").lower().replace("_", " ")
        whose = f" [{problem.handle}]" if problem.handle and problem.handle not in problem.detail else ""
        lines.append(printable(f"{kind}: {problem.subject}: {problem.detail}{whose}"))
    return lines


def printable(text: str) -> str:
    """Text on one line: a damaged record may say anything, also to the terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def problems(report: ipam_pb2.Report) -> str:
    """A report, line by line, and the totals as the last line."""
    number = len(report.problems)
    last = f"{report.allocated} allocated, {report.in_use} in use, {number or 'no'} problem{'' if number == 1 else 's'}"
    return "\n".join([*problem_lines(report.problems), last])


def _usage_table(lead: Sequence[Column], rows: Sequence[Sequence[str]], uses: Sequence[Usage], look: Look) -> str:
    wide = not look.width or look.width >= WIDE
    heads = ("USED", "COOLING", "RESERVED", "BORROWED", "FREE") if wide else ("USED", "COOL", "RESV", "BORR", "FREE")
    length = 20 if wide else 10
    columns = [*lead, Column("USE", spare=True, paint=_painter(uses, look)), Column("", right=True),
               *(Column(head, right=True) for head in heads)]
    full = [[*row, bar(usage, length, look), percent(usage), *map(count, (
        usage.used, usage.cooling, usage.reserved, usage.borrowed, usage.free))]
        for row, usage in zip(rows, uses, strict=True)]
    return table(columns, full, look)


def _painter(uses: Sequence[Usage], look: Look) -> Callable[[int, str], str]:
    return lambda row, drawn: paint(drawn, uses[row], look)


def _owner(block: ipam_pb2.Block) -> str:
    """Whose a block is, and how far that is if it is not simply so."""
    if block.affinity == ipam_pb2.Block.AFFINITY_NONE or not block.node:
        return NOTHING
    if block.affinity == ipam_pb2.Block.AFFINITY_CONFIRMED:
        return block.node
    return f"{block.node} ({AFFINITY.get(block.affinity, 'unknown')})"


def _state(pool: ipam_pb2.Pool) -> str:
    return f"{pool.name} (disabled)" if pool.disabled else pool.name


def _yes(value: bool) -> str:
    return "yes" if value else "no"
