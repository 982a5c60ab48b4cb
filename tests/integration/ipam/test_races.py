"""Several processes on one store: what two of them want, one gets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import pytest

from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Conflict, Exhausted, FailedPrecondition, TimedOut
from muslin.etcd import Etcd, keys
from muslin.etcd.mirror import Mirror
from muslin.tasks import TaskSet
from services.ipam import handles, pools
from services.ipam.allocator import Allocator
from services.ipam.config import Config
from services.ipam.handles import Request
from services.ipam.store import encode
from services.ipam.view import View
from tests.integration.ipam.clients import Client, attachment, identity, outcome
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@dataclass
class Process:
    """What a service is inside."""

    allocator: Allocator
    view: View
    following: asyncio.Task[None]


@asynccontextmanager
async def allocating(store: Etcd) -> AsyncIterator[Process]:
    """An allocator that follows the store; cancel `following` to blind it."""
    tasks, mirror = TaskSet(), Mirror(store, keys.IPAM)
    view = View(mirror.items)
    mirror.subscribe(lambda changes, revision: view.changed([change.key for change in changes], revision))
    following = tasks.spawn("mirror", mirror.run())
    try:
        await asyncio.wait_for(mirror.ready.wait(), 30)
        yield Process(Allocator(store, mirror, view, tasks), view, following)
    finally:
        await tasks.aclose()


@contextmanager
def three(etcd: EtcdServer) -> Iterator[list[Service]]:
    """Three processes, started at once."""
    with ExitStack() as stack:
        processes = [Service("ipam", "--etcd", etcd.endpoint, "--pool", "172.31.0.0/16") for _ in range(3)]
        for process in processes:
            stack.callback(process.stop)
            process.launch()
        for process in processes:
            process.wait()
        yield processes


@pytest.fixture(scope="module")
def replicas(server: EtcdServer) -> Iterator[list[Service]]:
    with three(server) as processes:
        yield processes


@pytest.fixture
async def clients(etcd: EtcdServer, replicas: list[Service]) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(Client(replica.target)) for replica in replicas]
        await made[0].create_pool("default", "172.31.0.0/16")
        yield made


async def test_processes_that_start_at_once_make_one_first_pool(etcd: EtcdServer) -> None:
    with three(etcd) as processes:
        async with Client(processes[2].target) as client:
            assert {name: pool.cidr for name, pool in (await client.pools()).items()} == {"default": "172.31.0.0/16"}


async def only(clients: list[Client], name: str, cidr: str, block_size: int) -> None:
    """Make this the only pool."""
    await clients[0].create_pool(name, cidr, block_size)
    await clients[0].delete_pool("default")


async def test_the_last_addresses_go_to_as_many(etcd: EtcdServer, clients: list[Client]) -> None:
    """Twelve want four addresses, through three processes: four get one each, eight are told that there is none."""
    await only(clients, "tiny", "10.0.0.0/30", 30)
    answers = await asyncio.gather(*(outcome(clients[n % 3].assign(n, f"node{n % 5}")) for n in range(12)))
    held = {identity(n): answer for n, answer in enumerate(answers) if isinstance(answer, str)}
    assert len(held) == 4
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 8
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, held)


async def test_thirty_two_nodes_for_sixteen_blocks(etcd: EtcdServer, clients: list[Client]) -> None:
    """Each node gets its address, sixteen nodes a block, the others borrow."""
    await only(clients, "blocks", "10.0.0.0/26", 30)
    answers = await asyncio.gather(*(clients[n % 3].assign(n, f"node{n}") for n in range(32)))
    assert len(set(answers)) == 32
    blocks = await clients[0].blocks()
    assert len(blocks) == len({block.node for block in blocks}) == 16
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, {identity(n): answer for n, answer in enumerate(answers)})
        assert len((await store.range(keys.IPAM_AFFINITIES)).items) == 16
        assert [block.affinity for block in blocks] == [ipam_pb2.Block.AFFINITY_CONFIRMED] * 16


async def test_one_node_against_itself(etcd: EtcdServer, clients: list[Client]) -> None:
    """Requests for one node through three processes at once: all served, from no more blocks than three claims."""
    answers = await asyncio.gather(*(clients[n % 3].assign(n) for n in range(90)))
    assert len(set(answers)) == 90
    assert len(await clients[0].blocks("n1")) <= 4
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, {identity(n): answer for n, answer in enumerate(answers)})


async def test_the_same_add_everywhere_at_once_is_one_address(etcd: EtcdServer, clients: list[Client]) -> None:
    answers = await asyncio.gather(*(clients[n % 3].assign(1) for n in range(30)))
    assert len(set(answers)) == 1
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, {identity(1): answers[0]})


async def test_add_and_delete_of_everything_at_once_comes_out_even(etcd: EtcdServer, clients: list[Client]) -> None:
    """Adding and deleting the same attachments through different processes; at last all are deleted."""
    await only(clients, "small", "10.0.0.0/28", 30)

    async def churn(n: int) -> None:
        for turn in range(6):
            await outcome(clients[(n + turn) % 3].assign(n, f"node{n % 4}"))
            await clients[(n + turn + 1) % 3].release(n)

    await asyncio.gather(*(churn(n) for n in range(24)))
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, {})
    assert (await clients[0].pools())["small"].used == 0


async def test_pools_that_overlap_are_not_made_at_once(clients: list[Client]) -> None:
    for turn in range(6):
        cidrs = [f"10.{turn}.0.0/{length}" for length in range(16, 25)]
        answers = await asyncio.gather(*(outcome(clients[n % 3].create_pool(f"p{turn}-{n}", cidr))
                                         for n, cidr in enumerate(cidrs)))
        assert len(await clients[0].pools()) == turn + 2, "the first pool and one of each turn"
        assert Counter(type(answer).__name__ for answer in answers)["Pool"] == 1


async def test_a_pool_is_deleted_or_serves_never_both(etcd: EtcdServer, clients: list[Client]) -> None:
    """Deleting an unused pool while addresses are asked for: either it goes first, or an address does."""
    async with Etcd([etcd.endpoint]) as store:
        for turn in range(8):
            name = f"turn{turn}"
            await clients[0].create_pool(name, f"10.{turn}.0.0/29", 30)
            if turn == 0:
                await clients[0].delete_pool("default")
            deletion, *answers = await asyncio.gather(
                outcome(clients[0].delete_pool(name)), *(outcome(clients[1 + n % 2].assign(n)) for n in range(4)))
            await ipam_invariants.check(store)
            served = [answer for answer in answers if isinstance(answer, str)]
            assert bool(served) == isinstance(deletion, FailedPrecondition)
            assert (name in await clients[1].pools()) == bool(served)
            for n in range(4):
                await clients[2].release(n)
            await outcome(clients[0].delete_pool(name))


async def test_a_limit_on_blocks_holds_against_all_processes(etcd: EtcdServer, clients: list[Client]) -> None:
    """One node, three processes, blocks of one address: no more are claimed than allowed, the rest is refused."""
    await only(clients, "ones", "10.0.0.0/24", 32)
    await clients[0].configure(ipam_pb2.Config(max_blocks_per_node=5, strict_affinity=True))
    answers = await asyncio.gather(*(outcome(clients[n % 3].assign(n)) for n in range(24)))
    held = {identity(n): answer for n, answer in enumerate(answers) if isinstance(answer, str)}
    assert len(held) == len(await clients[0].blocks("n1")) == 5
    assert all("5 of at most 5 blocks" in answer.message for answer in answers if isinstance(answer, Exhausted))
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store, held)


async def test_release_against_another_s_create(etcd: EtcdServer, clients: list[Client]) -> None:
    """The node's block gives up its last address while another process assigns from it."""
    await only(clients, "small", "10.0.0.0/28", 30)
    async with Etcd([etcd.endpoint]) as store:
        for _ in range(12):
            await clients[0].assign(1)
            _, address = await asyncio.gather(clients[1].release(1), clients[2].assign(2))
            await ipam_invariants.check(store, {identity(2): address})
            await clients[0].release(2)


async def test_an_affinity_is_given_up_or_used_never_both(etcd: EtcdServer, clients: list[Client]) -> None:
    """Empty blocks are deleted while addresses are asked for: an address is in a block that is there."""
    await only(clients, "small", "10.0.0.0/28", 30)
    async with Etcd([etcd.endpoint]) as store:
        for turn in range(12):
            await clients[0].assign(0)
            await clients[0].release(0)
            (_, orphaned), answers = await asyncio.gather(
                clients[1].release_affinity("n1"), asyncio.gather(*(clients[n % 3].assign(n) for n in (1, 2))))
            await ipam_invariants.check(store, {identity(n): answer for n, answer in enumerate(answers, 1)})
            blocks = {block.cidr: block for block in await clients[2].blocks()}
            for cidr in orphaned:
                assert blocks[cidr].node in ("", "n1"), "nobody's, or claimed again once it was empty"
            for n in (1, 2):
                await clients[turn % 3].release(n)
            await clients[0].release_affinity("n1")
            assert await clients[1].release_affinity("n1") == ([], [])


async def test_a_block_is_claimed_while_it_is_being_deleted(etcd: EtcdServer, clients: list[Client]) -> None:
    """The only block there is goes from node to node; every address is in a block that belongs to someone."""
    await only(clients, "one", "10.0.0.0/30", 30)
    async with Etcd([etcd.endpoint]) as store:
        for turn in range(12):
            before, after = f"n{turn}", f"n{turn + 1}"
            if turn == 0:
                await clients[0].assign(0, before)
                await clients[0].release(0)
            _, address = await asyncio.gather(clients[1].release_affinity(before), clients[2].assign(1, after))
            await ipam_invariants.check(store, {identity(1): address})
            await clients[0].release(1)
            for node in (before, after):
                await clients[0].release_affinity(node)
            await clients[0].assign(0, after)
            await clients[0].release(0)


async def test_a_reservation_and_its_addresses_are_never_both_new(etcd: EtcdServer, clients: list[Client]) -> None:
    """What a reservation says is held was given before it; nothing of it is given after."""
    await only(clients, "small", "10.0.0.0/29", 30)
    for _ in range(8):
        (_, held), answers = await asyncio.gather(
            clients[0].reserve("half", "10.0.0.0/30"),
            asyncio.gather(*(outcome(clients[1 + n % 2].assign(n)) for n in range(6))))
        given = [answer for answer in answers if isinstance(answer, str)]
        reserved = {f"10.0.0.{n}" for n in range(4)}
        assert set(given) & reserved == set(held)
        for n in range(6):
            await clients[2].release(n)
        await clients[1].unreserve("half")


async def test_one_of_each_family_or_none(etcd: EtcdServer, clients: list[Client]) -> None:
    """Eight want both families, of which one has four addresses: four get both, four get nothing."""
    await only(clients, "four", "10.0.0.0/29", 30)
    await clients[0].create_pool("six", "fd00::/126", 127)
    answers = await asyncio.gather(*(outcome(clients[n % 3].both(n)) for n in range(8)))
    given = [answer for answer in answers if isinstance(answer, list)]
    assert len(given) == 4
    assert sum(isinstance(answer, Exhausted) for answer in answers) == 4
    assert {len(addresses) for addresses in given} == {2}
    listed = await clients[0].pools()
    assert (listed["four"].used, listed["six"].used) == (4, 4)


async def test_a_process_that_does_not_see_the_other_s_claims_does_not_pass_the_limit(etcd: EtcdServer) -> None:
    """Its copy of the store stands still: it may not claim a block for a node that has all it may have."""
    async with Etcd([etcd.endpoint]) as store, AsyncExitStack() as stack:
        pool = pools.make("p", "10.0.0.0/31", 32, cool_down=0)
        first = pools.block_at(pool, next(pools.walk(pool, "n1")))
        await store.put(keys.pool("p"), encode(pool))
        await store.put(keys.IPAM_CONFIG, encode(Config(strict_affinity=True, max_blocks_per_node=1)))
        blind, seeing = [await stack.enter_async_context(allocating(store)) for _ in range(2)]
        # To the one that stands still another node has the block that comes first for n1; in truth it is n1's by then.
        other = Request(handles.of(attachment(1), "n2"), addresses=(first.removesuffix("/32"),))
        await blind.allocator.assign(other, 30)
        blind.following.cancel()
        await asyncio.wait([blind.following])
        await seeing.allocator.refresh()
        await seeing.allocator.release(other.identity, 30)
        assert await seeing.allocator.release_block(first, seeing.view.block(first).revision, 30)
        held = await seeing.allocator.assign(Request(handles.of(attachment(2), "n1")), 30)
        assert held.addresses[0].block == first
        with pytest.raises((TimedOut, Conflict)):
            await blind.allocator.assign(Request(handles.of(attachment(3), "n1")), 5)
        assert len((await store.range(keys.IPAM_BLOCKS)).items) == 1
