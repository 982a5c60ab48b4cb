"""Transactions that are wanted at the same time, sent to etcd as one.

One that comes alone is sent at once. While it is on its way others wait, and go together as soon as it has come back:
of many at once each costs a part of a transaction, here and in etcd. What is sent together succeeds or fails together,
so after a conflict each is decided anew and sent for itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from muslin.errors import MuslinError, TimedOut, Unavailable
from muslin.etcd import Delete, Etcd, Get, KeyValue, Op, Put, keys, unchanged
from muslin.tasks import TaskSet

Read = Callable[[str], KeyValue | None]
"""Reads a key; the transaction will depend on it."""
Decide = Callable[[Read], Mapping[str, bytes | None]]
"""From what it reads, what to write; None deletes. Without side effects: it is asked again after a conflict."""

OPERATIONS = 128
"""That etcd takes in one transaction, of each of its lists."""
BYTES = 1_000_000
"""Size of what one transaction of several writes, at most; etcd takes 1.5 MB."""


class Outcome(NamedTuple):
    """What became of one transaction."""

    revision: int
    """At which it was done; 0 if it had nothing to write."""
    found: Mapping[str, KeyValue | None] | None
    """None if it was done; else what there is at keys that it depended on, or nothing if it has to be sent alone."""


@dataclass(slots=True)
class _Transaction:
    """What is to be committed, on which conditions."""

    expect: dict[str, KeyValue | None]
    writes: dict[str, bytes | None]
    fences: set[str]
    """To be rewritten."""

    @property
    def written(self) -> set[str]:
        return self.fences | self.writes.keys()

    def operations(self) -> list[Op]:
        done: list[Op] = [Delete(key) if value is None else Put(key, value) for key, value in self.writes.items()]
        return done + [Put(fence, b"") for fence in sorted(self.fences)]

    def takes(self, other: _Transaction) -> bool:
        """Whether another can go with it: neither has to do with what the other writes, and all fits."""
        mine, its = self.written, other.written
        return (len(self.expect) + len(other.expect) <= OPERATIONS and len(mine) + len(its) <= OPERATIONS
                and not mine & its and not mine & other.expect.keys() and not its & self.expect.keys()
                and all(_same(item, other.expect[key]) for key, item in self.expect.items() if key in other.expect)
                and self.size() + other.size() <= BYTES)

    def add(self, other: _Transaction) -> None:
        self.expect |= other.expect
        self.writes |= other.writes
        self.fences |= other.fences

    def size(self) -> int:
        return sum(len(value) for value in self.writes.values() if value)


@dataclass(slots=True)
class _Wanted:
    decide: Decide
    fresh: Mapping[str, KeyValue | None]
    outcome: asyncio.Future[Outcome]


class Commits:
    """Sends transactions. The owner closes it before the store's client."""

    def __init__(self, etcd: Etcd, mirrored: Read) -> None:
        self._etcd, self._mirrored = etcd, mirrored
        self._waiting: deque[_Wanted] = deque()
        self._busy = False
        self._tasks = TaskSet()

    async def aclose(self) -> None:
        """Give up what is on its way."""
        await self._tasks.aclose()
        for wanted in self._waiting:
            wanted.outcome.cancel()

    async def alone(self, decide: Decide, fresh: Mapping[str, KeyValue | None]) -> Outcome:
        """Send one transaction.

        Raises:
            Unavailable, TimedOut: what became of it is not known.
        """
        transaction = self._prepared(decide, fresh)
        result = await self._send(transaction)
        return _outcome(transaction, *result)

    async def together(self, decide: Decide, fresh: Mapping[str, KeyValue | None]) -> Outcome:
        """Send one transaction, with others if several are wanted now.

        Raises:
            Unavailable, TimedOut: what became of it is not known.
        """
        if not self._busy:
            self._busy = True
            try:
                return await self.alone(decide, fresh)
            finally:
                self._busy = False
                self._go_on()
        wanted = _Wanted(decide, fresh, asyncio.get_running_loop().create_future())
        self._waiting.append(wanted)
        return await wanted.outcome

    def _go_on(self) -> None:
        if self._waiting:
            self._busy = True
            self._tasks.spawn("commits", self._send_waiting())

    async def _send_waiting(self) -> None:
        try:
            while group := self._group():
                await self._commit(group)
        finally:
            self._busy = False

    def _group(self) -> list[tuple[_Wanted, _Transaction]]:
        """Those that wait and can go together, in the order in which they came."""
        group: list[tuple[_Wanted, _Transaction]] = []
        whole = _Transaction({}, {}, set())
        left: list[_Wanted] = []
        while self._waiting and len(whole.expect) < OPERATIONS:
            wanted = self._waiting.popleft()
            if wanted.outcome.done():
                continue  # its caller has gone
            try:
                transaction = self._prepared(wanted.decide, wanted.fresh)
            except Exception as problem:  # noqa: BLE001  it is the caller's
                wanted.outcome.set_exception(problem)
                continue
            if group and not whole.takes(transaction):
                left.append(wanted)
                continue
            whole.add(transaction)
            group.append((wanted, transaction))
        self._waiting.extendleft(reversed(left))
        return group

    async def _commit(self, group: Sequence[tuple[_Wanted, _Transaction]]) -> None:
        whole = _Transaction({}, {}, set())
        for _, transaction in group:
            whole.add(transaction)
        try:
            result = await self._send(whole)
        except asyncio.CancelledError:
            for wanted, _ in group:
                wanted.outcome.cancel()
            raise
        except Exception as problem:  # noqa: BLE001  it is the callers'
            # What etcd refuses may be about another one of them: then each is sent for itself.
            refused = isinstance(problem, MuslinError) and not isinstance(problem, Unavailable | TimedOut)
            for wanted, _ in group:
                if not wanted.outcome.done():
                    if refused and len(group) > 1:
                        wanted.outcome.set_result(Outcome(0, {}))
                    else:
                        wanted.outcome.set_exception(problem)
        else:
            for wanted, transaction in group:
                if not wanted.outcome.done():
                    wanted.outcome.set_result(_outcome(transaction, *result))

    def _prepared(self, decide: Decide, fresh: Mapping[str, KeyValue | None]) -> _Transaction:
        expect: dict[str, KeyValue | None] = {}

        def read(key: str) -> KeyValue | None:
            expect[key] = fresh[key] if key in fresh else self._mirrored(key)
            return expect[key]

        writes = dict(decide(read))
        for key, value in writes.items():
            if value is not None and expect.get(key) is None:
                read(keys.endpoint_fence(key))
        deleted = [key for key, value in writes.items() if value is None]
        return _Transaction(expect, writes, set(map(keys.endpoint_fence, deleted)))

    async def _send(self, transaction: _Transaction) -> tuple[int, Mapping[str, KeyValue | None] | None]:
        """The revision, or what there is at the keys that it depends on."""
        result = await self._etcd.txn(
            [unchanged(key, item.mod_revision if item else 0) for key, item in transaction.expect.items()],
            transaction.operations(), [Get(key) for key in transaction.expect])
        if result.succeeded:
            return result.revision, None
        return 0, dict(zip(transaction.expect, result.responses, strict=True))


def _outcome(transaction: _Transaction, revision: int, found: Mapping[str, KeyValue | None] | None) -> Outcome:
    if found is None:
        return Outcome(revision if transaction.writes else 0, None)
    return Outcome(0, {key: found[key] for key in transaction.expect})


def _same(one: KeyValue | None, other: KeyValue | None) -> bool:
    return (one.mod_revision if one else 0) == (other.mod_revision if other else 0)
