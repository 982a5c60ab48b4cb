"""Turns: so many at once, and nobody keeps others waiting for good."""

from __future__ import annotations

import asyncio

from services.policy.turns import Turns


async def test_so_many_have_a_turn_at_once() -> None:
    turns, inside, most = Turns(3, 60), 0, 0

    async def one() -> None:
        nonlocal inside, most
        async with turns.turn():
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await asyncio.sleep(0)
            inside -= 1

    async with asyncio.timeout(10):
        await asyncio.gather(*(one() for _ in range(20)))
    assert (inside, most) == (0, 3)


async def test_whoever_takes_long_holds_up_nobody() -> None:
    """A node that does not read would else keep all others from their programs; nor does its end count twice."""
    turns, end = Turns(1, 0.01), asyncio.Event()

    async def stuck() -> None:
        async with turns.turn():
            await end.wait()

    waiting = [asyncio.create_task(stuck()) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10), turns.turn():
        end.set()
        await asyncio.gather(*waiting)
    assert turns._free._value == 1


async def test_a_turn_that_is_cancelled_is_given_back() -> None:
    turns = Turns(1, 60)

    async def stuck() -> None:
        async with turns.turn():
            await asyncio.Event().wait()

    having = asyncio.create_task(stuck())
    waiting = asyncio.create_task(stuck())
    await asyncio.sleep(0)
    for task in (waiting, having):
        task.cancel()
    await asyncio.gather(waiting, having, return_exceptions=True)
    async with asyncio.timeout(10), turns.turn():
        pass
