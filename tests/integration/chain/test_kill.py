"""A service dies in the middle of a burst of ADDs and DELs: no address is given twice, none is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from muslin.etcd import keys
from tests.support import ipam_invariants
from tests.support.chain import Done
from tests.support.netns import namespaces
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root

PODS = 25
ROUNDS = 2
"""50 ADDs and 50 DELs."""
AT_ONCE = 8


class Burst:
    """A runtime that adds and deletes pods, repeating what failed as kubelet does, and kills a service on the way."""

    def __init__(self, stack: Stack, victim: str) -> None:
        self.stack, self.victim = stack, victim
        self.done = itertools.count(1)
        self.failures = 0
        self.given: dict[str, str] = {}
        """Address by container, as the runtime was told."""
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def add(self, pod: Pod) -> None:
        for _ in range(40):
            done = await self._invoke("ADD", pod)
            if done.status == 0:
                address = json.loads(done.stdout)["ips"][0]["address"]
                assert address not in self.given.values(), f"{address} was given twice"
                self.given[pod.container] = address
                return
            assert done.error["code"] in (11, 5, 101), done.error
            await self._delete_once(pod)
        raise AssertionError(f"ADD of {pod.container} never succeeded: {done.stdout!r}")

    async def delete(self, pod: Pod) -> None:
        for _ in range(40):
            if await self._delete_once(pod):
                self.given.pop(pod.container, None)
                return
        raise AssertionError(f"DEL of {pod.container} never succeeded")

    async def _delete_once(self, pod: Pod) -> bool:
        return (await self._invoke("DEL", pod)).status == 0

    async def _invoke(self, verb: str, pod: Pod) -> Done:
        async with self._slots:
            if next(self.done) == PODS:
                self.stack.kill(self.victim)
            done = await self.stack.invoke(verb, pod)
        if done.status:
            self.failures += 1
            await asyncio.sleep(0.25)  # the runtime's own pause before it tries again
        return done


def held(records: Mapping[str, object]) -> dict[str, str]:
    """Address by container, as etcd has it."""
    raw = {key: json.dumps(value).encode() for key, value in records.items()}
    assert list(ipam_invariants.violations(raw)) == []
    return {identity.split("/")[1]: address for address, identity in ipam_invariants.owners(raw).items()}


@pytest.mark.parametrize("victim", ["ipam", "endpoint", "policy", "node", "etcd"])
async def test_kill_in_a_burst(victim: str, tmp_path: Path) -> None:
    async with running(tmp_path) as stack:
        with namespaces(PODS, "pod") as paths:
            burst = Burst(stack, victim)
            before = stack.pid(victim)
            for number in range(ROUNDS):
                pods = [Pod(f"c{number}-{i}", path, name=f"pod-{i}") for i, path in enumerate(paths)]
                await asyncio.gather(*(burst.add(pod) for pod in pods))
                assert {c: a.split("/")[0] for c, a in burst.given.items()} == held(stack.records())
                await asyncio.gather(*(burst.delete(pod) for pod in pods))
            assert stack.pid(victim) != before, "the service was to die"
            records = stack.records()
            assert held(records) == {}
            assert [key for key in records if key.startswith((keys.IPAM_HANDLES, keys.ENDPOINTS))] == []
            assert stack.leftovers() == {}
