"""The fault matrix: whatever single thing breaks, traffic keeps its verdict, and soon pods are networked again."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import grpc
import pytest
import pytest_asyncio

from tests.compose.conftest import VARIABLE
from tests.compose.faults import FAULTS, Fault
from tests.compose.stack import NODES, Stack
from tests.compose.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALM = 120.0
"""Patience until all is as it was: deletions that were put off are done, and every flow has replies."""


@dataclass(frozen=True)
class Row:
    """What one fault did."""

    fault: str
    recovery: float
    failed: int
    gap: float
    lost: int
    wrong: int
    doubled: int
    leaked: int
    broken: float
    """Seconds that it took to break it, and to undo that."""


RECOVERY = 10.0
"""Seconds within which each node has a new pod."""


@pytest.fixture(scope="module")
def rows() -> Iterator[list[Row]]:
    """The matrix, printed at the end."""
    found: list[Row] = []
    yield found
    heads = ("fault", "recovery s", "ADDs failed", "longest silence s", "connections lost", "wrongly allowed",
             "doubled", "leaked", "breaking it s")
    lines = [(row.fault, f"{row.recovery:.1f}", str(row.failed), f"{row.gap:.2f}", str(row.lost), str(row.wrong),
              str(row.doubled), str(row.leaked), f"{row.broken:.1f}") for row in found]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    print()  # noqa: T201 - the table is what is asked for
    for line in (heads, *lines):
        print("  ".join(text.ljust(width) if not place else text.rjust(width)  # noqa: T201 - likewise
                        for place, (text, width) in enumerate(zip(line, widths, strict=True))))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def alive(stack: Stack, channels: dict[str, grpc.aio.Channel]) -> AsyncIterator[World]:
    """The world, with all its traffic flowing."""
    async with world(stack, channels) as made:
        await _flowing(made)
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
async def test_a_fault_opens_nothing_loses_nothing_and_is_soon_over(
        stack: Stack, alive: World, rows: list[Row], fault: Fault) -> None:
    others = [node for node in NODES if node not in fault.victims]
    alive.attempts.clear()
    alive.doubled.clear()
    await alive.report(clear=True)
    alive.begin()
    try:
        await _resumed(alive, NODES, 0.0)  # all nodes work before anything is broken
        began = time.monotonic()
        broken = fault.broken(stack)
        await asyncio.to_thread(broken.__enter__)
        took = time.monotonic() - began
        try:
            await asyncio.sleep(fault.seconds)
            await _resumed(alive, others, began)
        finally:
            over = time.monotonic()
            await asyncio.to_thread(broken.__exit__, None, None, None)
        mended = time.monotonic()
        took += mended - over
        await _resumed(alive, NODES, mended)
    finally:
        await alive.end()
    waits = [*(alive.longest_wait(node, began, mended) for node in others),
             *(alive.longest_wait(node, mended, mended) for node in fault.victims)]
    report = await alive.report()
    leaks = await _settled(alive)
    row = Row(fault.name, max(waits), sum(bool(each.error) for each in alive.attempts), report.gap,
              len(report.lost), sum(report.wrong.values()), len(alive.doubled), len(leaks), took)
    rows.append(row)
    assert (report.wrong, alive.doubled, leaks, report.lost) == ({}, [], [], [])
    assert os.environ.get(VARIABLE) == "short" or row.recovery < RECOVERY, [
        each for each in alive.attempts if each.error or each.ended - each.began > 1]
    await _flowing(alive)


async def _resumed(alive: World, nodes: tuple[str, ...] | list[str], since: float) -> None:
    """Wait until each of the nodes has made a pod since."""
    async with asyncio.timeout(CALM):
        while not all(alive.resumed(node, since) for node in nodes):  # noqa: ASYNC110 - many tasks' work is no event
            await asyncio.sleep(0.1)


async def _flowing(alive: World) -> None:
    """Wait until every flow that is allowed has replies, by UDP and by TCP, and nobody else has any."""
    await alive.report(clear=True)
    end = time.monotonic() + CALM
    while (report := await alive.report()).silent:
        assert time.monotonic() < end, report.silent
        await asyncio.sleep(0.5)
    assert report.wrong == {}


async def _settled(alive: World) -> list[str]:
    """What the address manager's check still finds once all pods that came are gone, and time has passed."""
    end = time.monotonic() + CALM
    while (leaks := await alive.leaks()) and time.monotonic() < end:  # noqa: ASYNC110 - others' work is no event
        await asyncio.sleep(1)
    return leaks
