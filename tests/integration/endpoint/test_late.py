"""Writes that arrive late, after their process has died: what was deleted meanwhile stays deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from muslin.errors import MuslinError, NotFound
from muslin.etcd import keys
from tests.integration.endpoint.clients import Client, call, persist, pod
from tests.support.etcd import EtcdServer
from tests.support.etcd_faults import until
from tests.support.relay import Moment, Relay
from tests.support.service import Service

_TRANSACTIONS = ('grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",grpc_service="etcdserverpb.KV",'
                 'grpc_type="unary"}')

Step = Callable[[Client], Awaitable[Any]]


@asynccontextmanager
async def withheld(server: EtcdServer, text: str, step: Step) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """A step whose transaction is on its way to etcd when its process is killed; calling this lets it arrive."""
    async with Relay(server.endpoint, silent=True) as relay:
        dying = Service("endpoint", "--etcd", relay.endpoint)
        try:
            await asyncio.to_thread(dying.start)
            async with Client(dying.target) as client:
                relay.stop_at(text, Moment.ASKED)
                task = asyncio.ensure_future(step(client))
                async with asyncio.timeout(20):
                    await relay.stopped.wait()
                dying.kill()
                with suppress(MuslinError):
                    await task
        finally:
            dying.stop()

        async def arrive() -> None:
            before = server.metric(_TRANSACTIONS)
            relay.go()
            await until(lambda: server.metric(_TRANSACTIONS) > before, 20)

        yield arrive


KEY = keys.endpoint("net", "c1", "eth0")


async def test_an_add_that_arrives_after_its_del(etcd: EtcdServer, client: Client) -> None:
    """The DEL comes to another process, which knows nothing of the ADD and finds nothing."""
    async with withheld(etcd, KEY, lambda dying: dying.add(call(1))) as arrive:
        await client.delete(call(1))
        await arrive()
        with pytest.raises(NotFound):
            await client.get(1)


async def test_an_add_that_was_repeated_and_deleted_meanwhile(etcd: EtcdServer, client: Client) -> None:
    """There was no record when it was sent, and there is none again when it arrives: it may not count as unchanged."""
    async with withheld(etcd, KEY, lambda dying: dying.add(call(1))) as arrive:
        await client.add(call(1))
        await client.delete(call(1))
        await arrive()
        with pytest.raises(NotFound):
            await client.get(1)


async def test_an_add_that_arrives_after_its_repetition_changes_nothing(etcd: EtcdServer, client: Client) -> None:
    async with withheld(etcd, KEY, lambda dying: dying.add(call(1))) as arrive:
        await client.apply(pod(labels={"v": "1"}))
        await client.add(call(1))
        await arrive()
        assert (await client.get(1)).labels["v"] == "1"


async def test_pods_that_arrive_after_they_were_forgotten(etcd: EtcdServer, client: Client) -> None:
    async with withheld(etcd, keys.pod("prod", "web"), lambda dying: dying.apply(pod(), pod("other"))) as arrive:
        await client.forget("web")
        await arrive()
        assert list(await client.pods()) == [], "both are one transaction: the one that was forgotten takes the other"


async def test_a_deletion_that_arrives_after_its_pod_was_applied_again(etcd: EtcdServer, client: Client) -> None:
    await client.apply(pod(labels={"v": "1"}))
    async with withheld(etcd, keys.pod("prod", "web"), lambda dying: dying.forget("web")) as arrive:
        await client.forget("web")
        await client.apply(pod(labels={"v": "2"}))
        await arrive()
        assert [dict(known.labels) for known in await client.pods()] == [{"v": "2"}]


async def test_a_del_that_arrives_after_its_attachment_was_added_again(etcd: EtcdServer, client: Client) -> None:
    await client.add(call(1))
    async with withheld(etcd, KEY, lambda dying: dying.delete(call(1))) as arrive:
        await client.delete(call(1))
        await client.add(call(1))
        await arrive()
        await client.get(1)


async def test_nodes_that_arrive_after_they_were_forgotten(etcd: EtcdServer, client: Client) -> None:
    async with withheld(etcd, keys.node("n1"), lambda dying: dying.apply_node("n1")) as arrive:
        await client.forget_node("n1")
        await arrive()
        await client.apply_node("n2")
        assert [name async for name in client.node_names()] == ["n2"]


async def test_deletions_do_not_starve_additions(replicas: list[Service], client: Client) -> None:
    """40 ADDs beside 40 DELs of nothing, through three processes that know each other's writes late: none fails."""
    async with Client(replicas[0].target) as one, Client(replicas[1].target) as other:
        through = (client, one, other)
        for turn in range(3):
            first = turn * 100
            await asyncio.gather(
                *(through[n % 3].add(call(first + n, pod=f"p{n}")) for n in range(40)),
                *(through[(n + 1) % 3].delete(call(first + 50 + n % 40)) for n in range(40)))
        assert len((await client.list()).endpoints) == 120
        await asyncio.gather(*(through[n % 3].delete(call(turn * 100 + n)) for turn in range(3) for n in range(40)),
                             *(through[(n + 1) % 3].add(call(1000 + n)) for n in range(40)))
        assert {e.attachment.container_id for e in (await persist(client.list)).endpoints} == {
            f"c{1000 + n}" for n in range(40)}
