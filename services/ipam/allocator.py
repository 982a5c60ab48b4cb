"""Committing: requests in, decided by `plan`, made durable by compare-and-swap.

Requests wait in a few lanes, those of a node in the same one. While a lane's transaction is under way, what comes in
waits, and goes together into the next one; lanes run side by side. No lock is held anywhere: what two lanes or two
processes both want, etcd decides, and the loser reads the present state and decides anew.

Nobody pays for another's failure. A transaction that lost a race failed as a whole, so those whose records had changed
go on apart from the rest: one node at a time. One that etcd refuses is taken apart into its requests.
"""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial

from muslin.errors import Conflict, Corrupt, Exhausted, FailedPrecondition, MuslinError, TimedOut, Unavailable
from muslin.etcd import Delete, Etcd, Get, KeyValue, Put, keys, unchanged
from muslin.etcd.mirror import Mirror
from muslin.tasks import TaskSet
from services.ipam import metrics
from services.ipam.handles import Address, Handle, Request
from services.ipam.outcomes import Damaged, Freed, Granted, Outcome, Release, ReleaseExact, Short
from services.ipam.plan import Asked, Plan, plan
from services.ipam.store import handle_key
from services.ipam.view import View
from services.ipam.waiting import Answer, Lane, Waiting, together

log = logging.getLogger(__name__)

LANES = 2
"""Transactions under way at once, at most: one to decide and answer while the other is with etcd. More lanes mean
smaller groups, so more transactions for as many requests."""
BATCH = 100
"""Requests decided together, at most; a transaction's size limits them further."""
FAILURES = 6
"""Transactions without an answer before a request is given up."""
CONFLICTS = 64
"""Lost races before a request is given up: each one means that another process got on."""
_PATIENCE, _PAUSE = 4.0, 0.1
"""Seconds for which a look at the store is tried again, and between two tries."""
_REMEMBERED = 10_000
"""Attachments with an unanswered assignment that are remembered for their release."""


class Allocator:
    """Assigns and releases, for any number of callers at once.

    `view` must follow `mirror`. The lanes are tasks of `tasks`.
    """

    def __init__(self, etcd: Etcd, mirror: Mirror, view: View, tasks: TaskSet) -> None:
        self._etcd, self._mirror, self._view, self._tasks = etcd, mirror, view, tasks
        self._lanes: dict[int, Lane] = {}
        self._busy: set[str] = set()
        self._settled = asyncio.Event()
        self._unanswered: dict[str, frozenset[str]] = {}
        self._pending: dict[str, tuple[str, int]] = {}

    async def assign(self, request: Request, timeout: float) -> Handle:
        """Give an attachment its addresses, all or none of them: the same again if it has some.

        Raises:
            Exhausted: naming the pools tried and why none served.
            AlreadyExists: a specific address is somebody's; or the attachment holds another.
            InvalidArgument, FailedPrecondition: a specific address can not be given.
            Corrupt: the attachment's record is damaged.
            Unavailable, TimedOut, Conflict: not known to be done; ask again.
        """
        outcome = await self._answered(partial(self.ask_assign, request), timeout)
        assert isinstance(outcome, Granted)
        return outcome.handle

    async def release(self, identity: str, timeout: float, bound: str = "") -> tuple[str, ...]:
        """Free what an attachment holds, and return that; or keep it for its pod, and return nothing.

        Raises:
            Denied: it is on another node than the one that the caller is `bound` to, if it is.
            Unavailable, TimedOut, Conflict: not known to be done; ask again.
        """
        outcome = await self._answered(partial(self.ask_release, identity, bound=bound), timeout)
        assert isinstance(outcome, Freed)
        return outcome.addresses

    def ask_assign(self, request: Request, answer: Answer) -> Waiting:
        """As `assign`, for many at a time: `answer` is called with Granted or the error, later and once.

        Whoever asks so sees to it that the request does not wait for ever: `Waiting.expire`, `Waiting.give_up`.
        """
        return self._submit(request, request.handle.node, answer)

    def ask_release(self, identity: str, answer: Answer, bound: str = "") -> Waiting:
        """As `release`, likewise, with Freed or the error."""
        known = self._view.handle(identity).value
        block = self._view.block(known.addresses[0].block).value if known and known.addresses else None
        node = block.node if block else known.node if known else ""
        return self._submit(Release(identity, bound=bound), node, answer)

    async def release_exact(self, identity: str, held: Sequence[Address], timeout: float) -> tuple[str, ...]:
        """Free what is still exactly these assignments, all of them or none, also if they are kept; return them.

        If they are all that the handle has, the handle goes too, whatever their blocks say. If the handle knows
        nothing of them, they are freed and it stays.

        Raises:
            Unavailable, TimedOut, Conflict: not known to be done; ask again.
        """
        block = self._view.block(held[0].block).value if held else None
        request, node = ReleaseExact(identity, tuple(held)), block.node if block else ""
        outcome = await self._answered(partial(self._submit, request, node), timeout)
        assert isinstance(outcome, Freed)
        return outcome.addresses

    async def release_block(self, cidr: str, revision: int, timeout: float) -> bool:
        """Delete a block, and its affinity with it, if it is still at a revision; whether it was.

        A block with an address that is held or cools down stays: that it does is written nowhere else.
        """
        known = self._view.block(cidr)
        if (known.value is None or known.revision != revision or known.value.held
                or self._view.index.cools(known.value)):
            return False
        gone = [keys.block(cidr), *([keys.affinity(known.value.node, cidr)] if known.value.node else [])]
        result = await self._etcd.txn([unchanged(gone[0], revision)], [Delete(key) for key in gone],
                                      [Get(gone[0])], timeout=timeout)
        if result.succeeded:
            self._view.see(gone[0], None, result.revision)
        else:
            self._view.see(gone[0], result.responses[0], result.revision)
        return result.succeeded

    async def refresh(self) -> None:
        """Let the view catch up with all that was written before.

        Raises:
            Unavailable, TimedOut: the store can not be asked.
        """
        ends = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                # A full store takes no writes, and can be read: what is known is then as new as the watch has it.
                with suppress(FailedPrecondition):
                    await self._current(())
            except (Unavailable, TimedOut):
                # A member was lost, or the store was replaced and is being read anew: often soon over.
                if asyncio.get_running_loop().time() > ends:
                    raise
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def _answered(self, ask: Callable[[Answer], Waiting], timeout: float) -> Outcome:
        """Ask, and wait for the answer. Who is cancelled meanwhile has given up."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Outcome] = loop.create_future()

        def answer(outcome: Outcome | Exception) -> None:
            if answered.done():
                return
            if isinstance(outcome, Exception):
                answered.set_exception(outcome)
            else:
                answered.set_result(outcome)

        waiting = ask(answer)
        timer = loop.call_later(timeout, waiting.expire, timeout)
        try:
            return await answered
        finally:
            timer.cancel()
            waiting.give_up()

    def _submit(self, request: Asked, node: str, answer: Answer) -> Waiting:
        # What still goes on for this attachment, its caller may be gone, comes first: all of it in one lane.
        identity = request.identity
        node, count = self._pending.get(identity, (node, 0))
        self._pending[identity] = node, count + 1
        waiting = Waiting(request, identity, node, answer)
        number = _lane_of(node)
        lane = self._lanes.setdefault(number, Lane())
        lane.queue.append(waiting)
        if not lane.running:
            lane.running = True
            self._tasks.spawn(f"lane {number}", self._run(number, lane))
        return waiting

    async def _run(self, number: int, lane: Lane) -> None:
        """Serve a lane until nothing waits in it."""
        batch: list[Waiting] = []
        try:
            while lane.queue:
                batch = self._next(lane)
                await self._round(batch)
                # What was not settled keeps its place before what has come in since.
                lane.queue.extendleft(reversed([w for w in batch if not self._left(w)]))
        except Exception as problem:
            # A defect must not leave callers waiting; and the next caller gets a new lane.
            for waiting in (*batch, *lane.queue):
                if not self._left(waiting):
                    waiting.settle(problem)
                    self._left(waiting)
            log.exception("lane %d failed", number)
        finally:
            lane.running = False
            del self._lanes[number]

    def _next(self, lane: Lane) -> list[Waiting]:
        """What is decided next: as many as there are; after a failure only what must stay together."""
        batch: list[Waiting] = []
        others: list[Waiting] = []
        while lane.queue and len(batch) < BATCH:
            if self._left(waiting := lane.queue.popleft()):
                continue
            if batch and not together(batch[0], waiting):
                others.append(waiting)
            else:
                batch.append(waiting)
        lane.queue.extendleft(reversed(others))
        return batch

    def _left(self, waiting: Waiting) -> bool:
        """Whether a request is settled, or its caller has gone away; then it is forgotten."""
        if waiting.left or not waiting.settled:
            return waiting.left
        waiting.left = True
        node, count = self._pending.pop(waiting.identity)
        if count > 1:
            self._pending[waiting.identity] = node, count - 1
        return True

    async def _round(self, batch: Sequence[Waiting]) -> None:
        """Decide and commit once."""
        made = plan(self._view, [self._fenced(w.request) for w in batch], self._busy)
        decided = list(zip(batch, made.outcomes, strict=True))
        for waiting, outcome in decided:
            if isinstance(outcome, Damaged):
                waiting.settle(Corrupt(f"the address record of {waiting.identity} is damaged; delete the "
                                       "attachment and add it anew"))
            elif isinstance(outcome, Short) and waiting.confirmed:
                if isinstance(outcome.problem, Exhausted):
                    metrics.EXHAUSTED.inc()
                waiting.settle(outcome.problem)
        short = [w for w, outcome in decided if isinstance(outcome, Short) and not w.settled]
        if made.expect:
            await self._commit(made, [(w, o) for w, o in decided if isinstance(o, Granted | Freed)])
        if short:
            await self._confirm(short)
        elif batch and not made.expect and not any(w.settled for w in batch):
            if not self._busy:
                raise AssertionError("nothing can be decided, and nothing is waited for")
            await self._settled.wait()

    def _fenced(self, request: Asked) -> Asked:
        """A release says in which pools an assignment to its attachment may still be under way."""
        if isinstance(request, Release) and (unanswered := self._unanswered.get(request.identity)):
            return Release(request.identity, tuple(sorted(unanswered)), request.bound)
        return request

    async def _commit(self, made: Plan, decided: Sequence[tuple[Waiting, Granted | Freed]]) -> None:
        self._busy |= made.blocks
        self._view.writing(made.writes, made.changed.values())
        try:
            result = await self._etcd.txn(
                [unchanged(key, revision) for key, revision in made.expect.items()],
                [Delete(key) if value is None else Put(key, value) for key, value in made.writes.items()])
            if not result.succeeded:
                await self._learn(made)
        except (Unavailable, TimedOut) as problem:
            self._not_answered(made, decided)
            await self._pause([w for w, _ in decided], problem)
            return
        except MuslinError as problem:  # refused as it is: repeating it is of no use
            self._refused([w for w, _ in decided], problem)
            return
        else:
            if result.succeeded:
                for key, value in made.writes.items():
                    record = None if value is None else KeyValue(key, value, result.revision, result.revision)
                    self._view.see(key, record, result.revision, ours=True)
        finally:
            self._busy -= made.blocks
            self._view.written(made.writes)
            self._settled.set()
            self._settled = asyncio.Event()
        if result.succeeded:
            self._answer(decided)
            return
        metrics.CONFLICTS.inc()
        await self._lost([w for w, _ in decided])

    async def _learn(self, made: Plan) -> None:
        """Read what the decisions of a failed transaction rest on.

        It could carry that as its answer in case of failure; but nearly none fails, and all would pay for it.
        """
        claims = 0
        result = await self._etcd.txn((), [Get(key) for key in made.expect])
        for (key, expected), record in zip(made.expect.items(), result.responses, strict=True):
            if record and record.mod_revision != expected and key.startswith(keys.IPAM_NODES):
                claims = max(claims, record.mod_revision)
            else:
                self._view.see(key, record, result.revision)
        if claims:
            # Another process has claimed a block for the same node. It is not among these records; without it the
            # node's blocks are not counted right, and one would be claimed though there is one with room. So its mark
            # is not seen here either: it comes with the block, from the mirror, and till then no claim goes through.
            with suppress(TimedOut):
                await self._mirror.reached(claims, 2.0)

    def _refused(self, refused: Sequence[Waiting], problem: MuslinError) -> None:
        """One of them may be the reason: each is asked for by itself, and fails by itself."""
        if len(refused) == 1:
            refused[0].settle(problem)
        for waiting in refused:
            waiting.alone = True

    def _answer(self, decided: Sequence[tuple[Waiting, Granted | Freed]]) -> None:
        given = freed = 0
        for waiting, outcome in decided:
            if isinstance(outcome, Freed):
                freed += len(outcome.addresses)
                self._unanswered.pop(waiting.identity, None)
            elif outcome.new:
                given += len(outcome.handle.addresses)
            waiting.settle(outcome)
        metrics.BATCH.observe(len(decided))
        metrics.ASSIGNED.inc(given)
        metrics.RELEASED.inc(freed)

    async def _lost(self, losers: Sequence[Waiting]) -> None:
        """Another process was first. Once may be chance; after that, make room for each other."""
        for waiting in losers:
            waiting.conflicts += 1
            if waiting.conflicts >= CONFLICTS:
                waiting.settle(Conflict(f"{waiting.identity}: others changed the same records "
                                        f"{CONFLICTS} times in a row; ask again"))
        if (most := max((w.conflicts for w in losers), default=0)) > 1:
            await asyncio.sleep(random.uniform(0, min(0.05, 0.001 * 2 ** min(most, 6))))  # noqa: S311  no secret

    def _not_answered(self, made: Plan, decided: Sequence[tuple[Waiting, Granted | Freed]]) -> None:
        """Remember who may hold an address without knowing it."""
        metrics.UNKNOWN.inc()
        for waiting, outcome in decided:
            if isinstance(outcome, Granted) and outcome.new:
                identity = waiting.identity
                self._unanswered[identity] = self._unanswered.pop(identity, frozenset()) | made.pools[identity]
        while len(self._unanswered) > _REMEMBERED:
            del self._unanswered[next(iter(self._unanswered))]

    async def _pause(self, failed: Sequence[Waiting], problem: MuslinError) -> None:
        """Give etcd time to come back. Repeating is safe: it fails if the first one was done, and tells so."""
        for waiting in failed:
            waiting.failures += 1
            if waiting.failures >= FAILURES:
                waiting.settle(problem)
        most = max((w.failures for w in failed), default=1)
        await asyncio.sleep(random.uniform(0.5, 1) * min(1.0, 0.05 * 2 ** most))  # noqa: S311  no secret

    async def _confirm(self, short: Sequence[Waiting]) -> None:
        """Before "no address is left" is said, see everything that was written until now."""
        try:
            await self._current([handle_key(w.identity) for w in short])
        except (Unavailable, TimedOut) as problem:
            await self._pause(short, problem)
            return
        except MuslinError as problem:
            for waiting in short:
                waiting.settle(problem)
            return
        for waiting in short:
            waiting.confirmed = True

    async def _current(self, wanted: Sequence[str]) -> None:
        """Read some records, and let the view catch up with a write of its own that comes after all others."""
        before = self._mirror.revision
        result = await self._etcd.txn((), [Put(keys.IPAM_BARRIER, b""), *(Get(key) for key in wanted)])
        if result.revision <= before:
            raise Unavailable("etcd is at an older revision than it was: its data was replaced, and is read anew")
        for key, record in zip(wanted, result.responses[1:], strict=True):
            self._view.see(key, record, result.revision)
        await self._mirror.reached(result.revision, 2.0)


@lru_cache(maxsize=8192)
def _lane_of(node: str) -> int:
    return zlib.crc32(node.encode()) % LANES
