"""Many callers over one stream: answered one by one, through kills and restarts, and nothing is given twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import AlreadyExists, Exhausted, InvalidArgument, TimedOut, Unavailable, Unsupported
from muslin.etcd import Etcd
from muslin.ipam import Addresses
from tests.integration.ipam.clients import Client, attachment, identity, persist
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def service(etcd: EtcdServer) -> Iterator[Service]:
    with Service("ipam", "--etcd", etcd.endpoint) as running:
        yield running


@pytest.fixture
async def addresses(service: Service) -> AsyncIterator[Addresses]:
    async with Addresses(service.target) as client:
        yield client


def wanted(number: int, node: str = "n1", *specific: str) -> ipam_pb2.AssignRequest:
    return ipam_pb2.AssignRequest(attachment=attachment(number), node=node, namespace="ns", pod=f"p{number}",
                                  addresses=specific)


async def given(addresses: Addresses, number: int, node: str = "n1", timeout: float = 10) -> str:
    address, = (await addresses.assign(wanted(number, node), timeout)).addresses
    return address


async def test_many_at_once_and_the_same_as_call_by_call(etcd: EtcdServer, service: Service,
                                                         addresses: Addresses) -> None:
    """200 callers on seven nodes; what they got is what `Assign` gives them; what they free is free."""
    async with Client(service.target) as client, Etcd([etcd.endpoint]) as store:
        got = await asyncio.gather(*(given(addresses, n, f"n{n % 7}") for n in range(200)))
        held = {identity(n): address for n, address in enumerate(got)}
        assert len(set(got)) == 200
        await ipam_invariants.check(store, held)
        assert await asyncio.gather(*(client.assign(n, f"n{n % 7}") for n in range(20))) == got[:20]
        again = await asyncio.gather(*(given(addresses, n, "elsewhere") for n in range(200)))
        assert again == got, "asking again gives the same"
        freed = await asyncio.gather(*(addresses.release(attachment(n)) for n in range(200)))
        assert [address for address, in freed] == got
        assert await addresses.release(attachment(0)) == ()
        await ipam_invariants.check(store, {})


async def test_bad_ones_among_good_ones(etcd: EtcdServer, addresses: Addresses) -> None:
    """Each gets the error that its call would have ended with; its neighbours get their addresses."""
    async with Etcd([etcd.endpoint]) as store:
        first = await given(addresses, 0)
        answers = await asyncio.gather(
            given(addresses, 1), addresses.assign(wanted(2, "")), given(addresses, 3),
            addresses.assign(wanted(4, "n1", first)), addresses.assign(wanted(5, "n1", "10.200.0.1")),
            addresses.release(cni_pb2.Attachment(network="net", ifname="eth0")), given(addresses, 6),
            return_exceptions=True)
        good = {n: answers[place] for n, place in ((1, 0), (3, 2), (6, 6))}
        assert all(isinstance(address, str) for address in good.values())
        for place, kind, message in ((1, InvalidArgument, "node '' must not be empty"),
                                     (3, AlreadyExists, f"address {first} is taken: net/c0/eth0 holds it"),
                                     (4, InvalidArgument, "address 10.200.0.1 is in no pool"),
                                     (5, InvalidArgument, "attachment.container_id '' must not be empty")):
            problem = answers[place]
            assert type(problem) is kind
            assert message in str(problem)
        await ipam_invariants.check(store, {identity(0): first} | {identity(n): str(a) for n, a in good.items()})


async def test_the_last_addresses(etcd: EtcdServer) -> None:
    """Of those that are in one transaction some get the last addresses, and the others are told why not."""
    with Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.0/30") as service:
        async with Addresses(service.target) as addresses:
            answers = await asyncio.gather(*(given(addresses, n) for n in range(9)), return_exceptions=True)
            got = [answer for answer in answers if isinstance(answer, str)]
            assert sorted(got) == [f"10.0.0.{n}" for n in range(4)]
            refused = [answer for answer in answers if not isinstance(answer, str)]
            assert all(isinstance(problem, Exhausted) and "4 of 4" in problem.message for problem in refused)


async def test_killed_and_stopped_again_and_again(etcd: EtcdServer, service: Service, addresses: Addresses) -> None:
    """24 callers add and delete while the service is killed or stopped and started: the client asks again for them.

    Only a caller's own time ends its request. Nothing is given twice, and what was answered is held.
    """
    rng, alive, answers = random.Random(3), dict[str, str](), asyncio.Semaphore(0)

    async def lives(number: int) -> None:
        for turn in range(20):
            mine = number * 100 + turn
            address = await given(addresses, mine, f"n{number % 3}", 120)
            assert address not in alive.values(), f"{address} was given twice"
            alive[identity(mine)] = address
            assert await given(addresses, mine, f"n{number % 3}", 120) == address
            answers.release()
            if rng.random() < 0.8:
                del alive[identity(mine)]  # from now on it may be freed at any moment
                await addresses.release(attachment(mine), 120)

    async def end(how: Callable[[], object]) -> None:
        """End it in the midst of its work: when some more were answered, and a little later."""
        for _ in range(rng.randrange(1, 30)):
            await answers.acquire()
        await asyncio.sleep(rng.uniform(0.0, 0.02))
        await asyncio.to_thread(how)
        await asyncio.to_thread(service.start)

    async with Etcd([etcd.endpoint]) as store:
        async with asyncio.TaskGroup() as group:
            callers = [group.create_task(lives(n)) for n in range(24)]
            disturbed = 0
            for turn in range(12):  # 480 answers in all are more than these wait for
                disturbed += not all(caller.done() for caller in callers)
                await end((service.kill, service.terminate)[turn % 2])
        assert disturbed
        await ipam_invariants.check(store, alive)


async def test_who_gives_up_before_its_turn_gets_nothing(etcd: EtcdServer, addresses: Addresses) -> None:
    """While one transaction hangs, a caller that waits for the next one is cancelled: it is not carried out."""
    async with Etcd([etcd.endpoint]) as store:
        held = {identity(0): await given(addresses, 0)}
        etcd.freeze()
        try:
            first = asyncio.ensure_future(given(addresses, 1, timeout=60))
            await taken(addresses)
            second = asyncio.ensure_future(given(addresses, 2, timeout=60))
            await taken(addresses)
            second.cancel()
            await asyncio.wait([second])
            await taken(addresses)
        finally:
            etcd.thaw()
        held[identity(1)] = await first
        held[identity(3)] = await given(addresses, 3)
        await ipam_invariants.check(store, held)


async def taken(addresses: Addresses) -> None:
    """Return when the service has taken all that was sent before: it answers at once what can not be right."""
    with pytest.raises(InvalidArgument):
        await addresses.assign(wanted(99, ""))


async def test_a_caller_s_time_is_its_own(etcd: EtcdServer, addresses: Addresses) -> None:
    """With the store frozen one gives up early, another waits; who gave up asks again and has one address."""
    async with Etcd([etcd.endpoint]) as store:
        held = {identity(0): await given(addresses, 0)}
        etcd.freeze()
        try:
            patient = asyncio.ensure_future(given(addresses, 1, timeout=60))
            with pytest.raises(TimedOut, match="unknown, ask again"):
                await given(addresses, 2, timeout=0.5)
        finally:
            etcd.thaw()
        held[identity(1)] = await patient
        held[identity(2)] = await persist(partial(given, addresses, 2))
        await ipam_invariants.check(store, held)


async def test_a_stream_that_is_dropped_leaves_nobody_half_served(etcd: EtcdServer, service: Service) -> None:
    """The caller goes away with requests under way: each is done or not, and asking again tells."""
    async with Etcd([etcd.endpoint]) as store, Client(service.target) as client:
        for turn in range(5):
            async with Addresses(service.target) as addresses:
                asking = [asyncio.ensure_future(given(addresses, turn * 50 + n)) for n in range(50)]
                await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            with suppress(Unavailable):
                await asyncio.gather(*asking)
            assert all(task.done() for task in asking)
        await ipam_invariants.check(store)
        got = await asyncio.gather(*(persist(partial(client.assign, n)) for n in range(250)))
        await ipam_invariants.check(store, {identity(n): address for n, address in enumerate(got)})


async def test_a_number_used_twice_ends_the_stream(service: Service) -> None:
    async with Client(service.target) as client:
        items = [ipam_pb2.BatchItem(number=1, assign=wanted(1)), ipam_pb2.BatchItem(number=1, assign=wanted(2))]
        call = client.ipam.Batch(iter([ipam_pb2.BatchRequest(items=items)]), timeout=30)
        with pytest.raises(grpc.aio.AioRpcError, match="under way") as ended:
            async for _ in call:
                pass
        assert ended.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_server_that_does_not_know_it_is_named_at_once(tmp_path: Path) -> None:
    server, target = grpc.aio.server(), f"unix:{tmp_path}/old.sock"
    server.add_insecure_port(target)
    await server.start()
    try:
        async with Addresses(target) as addresses:
            with pytest.raises(Unsupported):
                await addresses.assign(wanted(1), 60)
    finally:
        await server.stop(None)
