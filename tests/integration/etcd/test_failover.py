"""Three members, and one of them dies, freezes, or is left alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from muslin.errors import TimedOut, Unavailable
from muslin.etcd import Etcd, Put
from tests.support.etcd import EtcdCluster
from tests.support.etcd_faults import Recorder, history, more, until, writing


async def in_use(etcd: Etcd) -> str:
    """The endpoint that the client talks to."""
    return (await etcd.status()).endpoint


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_the_member_in_use_is_lost(cluster: EtcdCluster, prefix: str, fault: str) -> None:
    """Reads go on without an error, the watch goes on without losing anything, both within seconds."""
    async with Etcd(cluster.endpoints) as etcd:
        first = await etcd.put(prefix + "a", b"")
        victim = cluster[await in_use(etcd)]
        others = [member.endpoint for member in cluster.members if member is not victim]
        async with Etcd(others) as writer, Recorder(etcd.watch(prefix, first)) as recorder:
            await recorder.reached(first)
            async with writing(writer, prefix) as acknowledged:
                await more(acknowledged, 20)
                begun = time.monotonic()
                getattr(victim, fault)()
                slowest = 0.0
                while recorder.watch.attempts < 2 or recorder.watch.trouble:
                    asked = time.monotonic()
                    assert await etcd.get(prefix + "none") is None
                    slowest = max(slowest, time.monotonic() - asked)
                    await asyncio.sleep(0.01)
                assert time.monotonic() - begun < 7, "the watch has found another member"
                assert slowest < 4
                assert await in_use(etcd) != victim.endpoint
            last = await writer.put(prefix + "z", b"")
            await recorder.reached(last)
            assert recorder.events == await history(writer, prefix, first, last)


async def test_an_idle_client_whose_member_froze_reads_from_another(cluster: EtcdCluster, prefix: str) -> None:
    """With nothing under way on it, only the read itself can find out, and must leave time to ask somebody else."""
    async with Etcd(cluster.endpoints, timeout=3) as etcd:
        await etcd.put(prefix + "a", b"")
        victim = cluster[await in_use(etcd)]
        await asyncio.sleep(1)  # until gRPC has no ping of its own under way
        victim.freeze()
        begun = time.monotonic()
        assert await etcd.get(prefix + "a", timeout=3) is not None
        assert time.monotonic() - begun < 2.8


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_the_leader_is_lost(cluster: EtcdCluster, prefix: str, fault: str) -> None:
    """Writes fail at most until there is a new one; what was acknowledged is there, nothing was done twice."""
    async with Etcd(cluster.endpoints) as etcd:
        first = await etcd.put(prefix + "a", b"")
        leader = next(member for member in cluster.members if member.name == leading) \
            if (leading := (await etcd.status()).leader) else cluster.members[0]
        failures: list[float] = []
        acknowledged: list[tuple[str, int]] = []
        attempted = 0
        getattr(leader, fault)()
        while len(acknowledged) < 20:
            attempted += 1
            key, asked = f"{prefix}{attempted}", time.monotonic()
            try:
                acknowledged.append((key, await etcd.put(key, b"", timeout=2)))
            except (TimedOut, Unavailable):
                failures.append(time.monotonic() - asked)
        assert len(failures) <= 5
        assert sum(failures) < 8
        events = await history(etcd, prefix, first + 1, acknowledged[-1][1])
        done = [(event.key, event.mod_revision) for event in events]
        assert len({key for key, _ in done}) == len(done)
        assert set(acknowledged) <= set(done)


async def test_a_member_left_alone_refuses_instead_of_hanging(cluster: EtcdCluster, prefix: str) -> None:
    """Without a majority there are no writes and no true reads: the error comes in time, and healing is noticed."""
    async with Etcd(cluster.endpoints, timeout=2) as etcd:
        first = await etcd.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            await recorder.reached(first)
            for member in cluster.members[1:]:
                member.kill()
            for call in (etcd.put(prefix + "b", b""), etcd.txn([], [Put(prefix + "c", b"")]), etcd.get(prefix + "a")):
                begun = time.monotonic()
                with pytest.raises((Unavailable, TimedOut)):
                    await call
                assert time.monotonic() - begun < 2.5
            await until(lambda: recorder.watch.trouble)
            for member in cluster.members[1:]:
                member.launch()
            for member in cluster.members[1:]:
                await asyncio.to_thread(member.wait)
            last = await etcd.put(prefix + "z", b"", timeout=10)
            await recorder.reached(last)
            assert recorder.events == await history(etcd, prefix, first, last)


async def test_each_member_in_turn(cluster: EtcdCluster, prefix: str) -> None:
    """A rolling restart: every member goes and comes back once, under one watch and one writer."""
    async with Etcd(cluster.endpoints) as etcd:
        first = await etcd.put(prefix + "a", b"")
        async with Recorder(etcd.watch(prefix, first)) as recorder:
            async with writing(etcd, prefix) as acknowledged:
                for member in cluster.members:
                    await more(acknowledged, 20)
                    await asyncio.to_thread(member.terminate)
                    await asyncio.to_thread(member.start)
            last = await etcd.put(prefix + "z", b"")
            await recorder.reached(last)
            assert recorder.events == await history(etcd, prefix, first, last)
