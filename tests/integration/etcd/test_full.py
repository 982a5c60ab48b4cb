"""A store that runs out of space carries transactions out and says that it did not."""

from __future__ import annotations

import asyncio

from muslin.errors import FailedPrecondition
from muslin.etcd import Etcd, Put, TxnResult, absent
from tests.support.etcd import EtcdServer

_ROUNDS, _AT_ONCE, _LARGE = 20, 8, b"x" * 400_000


async def test_what_is_answered_is_what_was_done() -> None:
    """Of the transactions that run into the quota together etcd answers each "no space", and has done most."""
    with EtcdServer(arguments=["--quota-backend-bytes=2000000"]) as small:
        async with Etcd([small.endpoint]) as store:
            answers: dict[str, TxnResult | BaseException] = {}
            for number in range(_ROUNDS):
                names = [f"/full/{number}/{one}" for one in range(_AT_ONCE)]
                found = await asyncio.gather(*(store.txn([absent(name)], [Put(name, _LARGE)], timeout=30)
                                               for name in names), return_exceptions=True)
                answers |= dict(zip(names, found, strict=True))
                if any(isinstance(answer, BaseException) for answer in found):
                    break
            last = "/full/last"
            await alarm(store)
            answers |= {last: (await asyncio.gather(store.txn([absent(last)], [Put(last, b"x")]),
                                                    return_exceptions=True))[0]}
            there = {item.key: item.mod_revision for item in (await store.range("/full/")).items}
            done = {name: answer.revision for name, answer in answers.items() if isinstance(answer, TxnResult)}
            assert there == done
            refused = [answer for answer in answers.values() if not isinstance(answer, TxnResult)]
            assert refused, "the store was never full"
            for problem in refused:
                assert isinstance(problem, FailedPrecondition)
                assert "unknown" not in problem.message
                assert "disarm" in problem.message


async def alarm(store: Etcd) -> None:
    """Wait until the store takes no writes any more."""
    async with asyncio.timeout(30):
        while True:
            if await store.alarms():
                return
            await asyncio.sleep(0.02)
