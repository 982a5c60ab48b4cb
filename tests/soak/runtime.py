"""Container runtimes: each makes sandboxes of a pod, one after the other, and deletes them; badly at times.

It asks any replica, gives up early, asks two at once, repeats an ADD that was answered, sends DEL before ADD, again
and late, and makes a pod's new sandbox before it deletes the old one.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.cni import result
from muslin.errors import AlreadyExists, Conflict, Exhausted, MuslinError, TimedOut, Unavailable
from tests.soak.history import Attachment, History, Outcome
from tests.soak.world import World

__all__ = ["Runtime"]

CONF = {"name": "soak", "type": "calico", "ipam": {"type": "calico-ipam"}, "policy": {"type": "k8s"}}
_AGAIN = (Unavailable, TimedOut, Conflict)
_PATIENCE = 90.0
"""Seconds within which a request that is repeated must be answered, faults included."""


class Runtime:
    """One pod's."""

    names = count()

    def __init__(self, world: World, history: History, number: int, seed: int) -> None:
        self._world, self._history = world, history
        self._pod, self._node = f"p{number}", f"node{number % 5}"
        self._rng = random.Random(f"{seed}/{number}")
        self._sandbox: Attachment | None = None
        self._past: list[Attachment] = []

    async def run(self, over: asyncio.Event) -> None:
        """Live until it is over; the last sandbox stays."""
        while not over.is_set():
            await self._turn()
            await asyncio.sleep(self._rng.uniform(0, 0.4))

    async def _turn(self) -> None:
        chance, new = self._rng.random, Attachment(f"c{next(self.names)}", self._pod, self._node)
        if self._sandbox and chance() < 0.6:
            await self.end()
        if chance() < 0.1:
            await self._delete(new)
            new = Attachment(f"c{next(self.names)}", self._pod, self._node)
        if not await self._add(new):
            await self._delete(new)  # as the shim rolls back
            return
        if chance() < 0.2 and await self._ask(new, self._asked()[0]) == b"":
            self._history.violation(f"{new.identity}: ADD was answered, and is refused when it is repeated")
        if self._past and chance() < 0.2:
            await self._delete(self._rng.choice(self._past))
        await self.end()
        self._sandbox = new

    async def end(self) -> None:
        """Delete the sandbox that there is, if there is one."""
        if self._sandbox:
            await self._delete(self._sandbox)
            self._past = [*self._past, self._sandbox][-20:]
            self._sandbox = None

    async def _add(self, attachment: Attachment) -> bool:
        """Ask for it until it is answered or patience is at its end; whether it is made."""
        patience = 1 if self._rng.random() < 0.2 else 1000
        for _ in range(patience):
            both = await asyncio.gather(*(self._ask(attachment, replica) for replica in self._asked()))
            made = next((answer for answer in both if answer is not None), None)
            if made is not None:
                return await self._record(attachment, made) if made else False
            await asyncio.sleep(self._rng.uniform(0, 0.2))
        return False

    def _asked(self) -> list[int]:
        """Usually one replica; both, at once, now and then."""
        every = list(range(len(self._world.ipams)))
        return every if self._rng.random() < 0.1 else [self._rng.choice(every)]

    async def _ask(self, attachment: Attachment, replica: int) -> bytes | None:
        """The result of one ADD; empty if refused, None if not known."""
        operation = self._history.invoke("ADD", attachment)
        try:
            with rpc.translated("ADD"):
                answer = await self._world.ipams[replica].plugin.Add(
                    cni_pb2.AddRequest(call=_call(attachment)), timeout=self._rng.choice((0.02, 0.2, 1, 5)),
                    metadata=(("muslin-node", attachment.node),))
        except (Exhausted, AlreadyExists):
            self._history.end(operation, Outcome.FAIL)
            return b""
        except _AGAIN:
            self._history.end(operation, Outcome.UNKNOWN)
            return None
        except MuslinError as problem:
            self._history.end(operation, Outcome.FAIL)
            self._history.violation(f"ADD of {attachment.identity}: {type(problem).__name__}: {problem.message}")
            return b""
        address, = result.parse(answer.result).ips
        self._history.given(operation, attachment, address.address.partition("/")[0])
        return answer.result

    async def _record(self, attachment: Attachment, made: bytes) -> bool:
        """The endpoint service's part; now and then the runtime ends between the two."""
        if self._rng.random() < 0.05:
            return False
        call = _call(attachment, result=made, context=b'{"profiles":["k8s_ns.soak"]}')
        await self._persist("endpoint ADD", lambda: self._rng.choice(self._world.endpoints).plugin.Add(
            cni_pb2.AddRequest(call=call), timeout=self._rng.choice((0.2, 1, 5)),
            metadata=(("muslin-node", attachment.node),)))
        return True

    async def _delete(self, attachment: Attachment) -> None:
        request = cni_pb2.DelRequest(call=_call(attachment, netns=""))
        await self._persist("endpoint DEL", lambda: self._rng.choice(self._world.endpoints).plugin.Del(
            request, timeout=self._rng.choice((0.2, 1, 5))))

        async def delete() -> None:
            operation = self._history.invoke("DEL", attachment)
            try:
                with rpc.translated("DEL"):
                    await self._rng.choice(self._world.ipams).plugin.Del(
                        request, timeout=self._rng.choice((0.02, 0.2, 1, 5)))
            except MuslinError:
                self._history.end(operation, Outcome.UNKNOWN)
                raise
            self._history.end(operation, Outcome.OK)

        await self._persist("DEL", delete)

    async def _persist(self, what: str, ask: Callable[[], Awaitable[Any]]) -> None:
        """Repeat a request until it is answered."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    try:
                        with rpc.translated(what):
                            await ask()
                    except _AGAIN:
                        await asyncio.sleep(self._rng.uniform(0, 0.2))
                    else:
                        return
        except TimeoutError:
            self._history.violation(f"{what}: no answer within {_PATIENCE:.0f} s")
        except MuslinError as problem:
            self._history.violation(f"{what}: {type(problem).__name__}: {problem.message}")


def _call(attachment: Attachment, **fields: Any) -> cni_pb2.Call:
    base: dict[str, Any] = {
        "container_id": attachment.container, "ifname": "eth0", "netns": "/run/netns/none",
        "args": f"K8S_POD_NAMESPACE=soak;K8S_POD_NAME={attachment.pod}", "config": json.dumps(CONF).encode()}
    return cni_pb2.Call(**(base | fields))
