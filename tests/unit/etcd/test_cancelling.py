"""What is cancelled at the very moment at which it has its answer is cancelled, and does not go on for ever."""

from __future__ import annotations

import asyncio
import threading

from muslin.etcd.admin import Admin
from muslin.etcd.cluster import Address
from muslin.etcd.election import Election, Term


async def test_a_call_in_a_thread_whose_answer_has_just_come() -> None:
    answered = threading.Event()

    def function(_: object) -> int:
        answered.set()
        return 1

    admin = Admin(5.0)
    task = asyncio.create_task(admin.run(Address("127.0.0.1", 9), function, 5.0))
    await asyncio.sleep(0)  # it has asked
    assert answered.wait(30)  # while the loop stands still, which learns of the answer after it was told to cancel
    admin._threads.submit(int).result(30)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    admin.close()


async def test_work_that_swallows_a_cancellation_is_cancelled_again() -> None:
    """As asyncio.wait_for does in Python 3.11, wherever the work uses it."""
    begun, swallowed = asyncio.Event(), 0

    async def lead(_: Term) -> None:
        nonlocal swallowed
        begun.set()
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    class Lease:
        ttl = 600

    election = Election(None, "/k", "a")  # type: ignore[arg-type]  # a term asks nothing of etcd by itself
    task = asyncio.create_task(election._term(Term("/k", 1), Lease(), 0.0, lead))  # type: ignore[arg-type]
    await begun.wait()
    task.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([task])
    assert task.cancelled()
    assert swallowed == 2
