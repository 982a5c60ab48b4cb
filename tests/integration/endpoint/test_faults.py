"""Processes killed, frozen and robbed of their store: what was answered is so, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from functools import partial

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import MuslinError, TimedOut
from tests.integration.endpoint.clients import Client, call, persist
from tests.support.etcd import EtcdServer
from tests.support.service import Service


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture
def service(etcd: EtcdServer) -> Iterator[Service]:
    with Service("endpoint", "--etcd", etcd.endpoint) as process:
        yield process


async def test_killed_while_adding_and_deleting(etcd: EtcdServer) -> None:
    """Kill -9 between any two steps; what was answered is stored, and when all is deleted nothing is left."""
    kept: set[str] = set()

    async def live(client: Client, number: int) -> None:
        for turn in range(8):
            made = call(number * 100 + turn, pod=f"p{number}")
            await persist(partial(client.add, made))
            if turn % 3:
                await persist(partial(client.delete, made))
            else:
                kept.add(made.container_id)

    with Service("endpoint", "--etcd", etcd.endpoint) as service:
        async with Client(service.target) as client:
            work = asyncio.gather(*(live(client, number) for number in range(16)))
            for _ in range(3):
                await asyncio.sleep(0.1)  # the moment of the kill is meant to be any
                service.kill()
                await asyncio.to_thread(service.start)
            await work
            assert {e.attachment.container_id for e in (await client.list()).endpoints} == kept
            for number in range(16):
                for turn in range(8):
                    await client.delete(call(number * 100 + turn))
            assert not (await client.list()).endpoints


async def test_etcd_killed_while_adding(etcd: EtcdServer, client: Client) -> None:
    """Requests ride out a restart of the store; their callers see no error."""
    work = [asyncio.create_task(client.add(call(n, pod=f"p{n}"), timeout=20)) for n in range(30)]
    await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.to_thread(etcd.restart)
    work += [asyncio.create_task(client.add(call(n, pod=f"p{n}"), timeout=20)) for n in range(30, 40)]
    await asyncio.gather(*work)
    assert len((await persist(client.list)).endpoints) == 40


async def test_an_add_that_was_given_up_does_not_come_back_after_its_del(etcd: EtcdServer, client: Client) -> None:
    """The store freezes, ADD and DEL are given up and sent again, the store thaws and does what is in its queue."""
    await client.add(call(1))
    etcd.freeze()
    try:
        with pytest.raises(TimedOut):
            await client.add(call(2), timeout=0.3)
        deletion = asyncio.create_task(persist(partial(client.delete, call(2))))
        await asyncio.sleep(0.3)  # it is on its way: nothing answers that could be awaited
    finally:
        etcd.thaw()
    await deletion
    await client.add(call(3))
    assert {e.attachment.container_id for e in (await client.list()).endpoints} == {"c1", "c3"}


async def test_a_store_that_lost_everything_ends_the_watches(etcd: EtcdServer, client: Client) -> None:
    for number in range(9):
        await client.add(call(number))
    async with aclosing(client.watch()) as stream:
        await anext(stream)
        await asyncio.to_thread(etcd.wipe)
        await asyncio.to_thread(etcd.start)
        with pytest.raises(MuslinError):
            async with asyncio.timeout(20):
                await anext(stream)

    async def begin_anew() -> endpoint_pb2.WatchResponse:
        async with aclosing(client.watch()) as again:
            return await anext(again)

    assert not (await persist(begin_anew)).changes
