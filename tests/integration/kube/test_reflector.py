"""A kind is followed to the last change, whatever the server and the connection do meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from muslin.kube import kinds
from muslin.kube.access import Access
from muslin.kube.client import Client, Listing, Pace
from muslin.kube.kinds import Name, Resource
from muslin.kube.reflector import Reflector
from tests.support.apiserver import CALICO, ApiServer

PODS = "/api/v1/pods"
TIERS = "/apis/crd.projectcalico.org/v1/tiers"
_SOON = 60.0


class Known:
    """What a reflector has told; tells of a deletion of what was not there, and of what is made twice by a list."""

    def __init__(self) -> None:
        self.objects: dict[Name, str] = {}
        self.lists = self.excuses = 0
        self.doubtful: set[Name] = set()
        self._moved = asyncio.Event()

    def listed(self, listing: Listing[Any]) -> None:
        self.objects = {item.name: item.metadata.resource_version for item in listing.objects}
        self.lists += 1
        self._moved.set()

    def put(self, item: Resource) -> None:
        self.objects[item.name] = item.metadata.resource_version or ""
        self._moved.set()

    def damaged(self, name: Name) -> None:
        self.doubtful.add(name)
        self._moved.set()

    def gone(self, name: Name) -> None:
        self.objects.pop(name, None)
        self._moved.set()

    def excused(self) -> None:
        self.excuses += 1
        self._moved.set()

    async def until_count(self, count: int) -> None:
        await self.until(lambda: len(self.objects) == count)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(_SOON):
            while not holds():
                self._moved.clear()
                await self._moved.wait()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as made:
        yield made


@asynccontextmanager
async def following(server: ApiServer, kind: Any = kinds.PODS, pace: Pace | None = None,
                    ) -> AsyncIterator[tuple[Reflector[Any], Known]]:
    known, client = Known(), Client(lambda: Access(server.url, "the test"), pace)
    reflector = Reflector(client, kind, known)
    task = asyncio.create_task(reflector.run())
    try:
        yield reflector, known
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


async def test_a_watch_goes_on_where_the_one_before_ended(server: ApiServer) -> None:
    """It ends as it was asked to, or breaks off: neither needs a list."""
    async with following(server, pace=Pace(watch=0.5)) as (reflector, known):
        for number in range(4):
            await server.put(PODS, f"p{number}", "default")
            await known.until_count(number + 1)
            await server.end_watches()
        await server.down()
        await server.up()
        await server.delete(PODS, "p0", "default")
        await known.until(lambda: len(known.objects) == 3)
        assert (reflector.lists, known.lists) == (1, 1)


async def test_a_bookmark_saves_a_list(server: ApiServer) -> None:
    """Versions went on elsewhere, and history is forgotten up to the bookmark: the watch goes on from there."""
    async with following(server) as (reflector, known):
        await server.watched(PODS)
        await server.put(PODS, "a", "default")
        await server.bookmark(PODS)
        async with asyncio.timeout(_SOON):
            while reflector.version != str(server.version):  # noqa: ASYNC110  a bookmark tells nothing else
                await asyncio.sleep(0.01)
        server.forget_before(server.version)
        await server.end_watches()
        await server.put(PODS, "b", "default")
        await known.until(lambda: len(known.objects) == 2)
        assert reflector.lists == 1


async def test_what_is_forgotten_is_listed_again(server: ApiServer) -> None:
    async with following(server) as (reflector, known):
        await server.put(PODS, "a", "default")
        await known.until(lambda: len(known.objects) == 1)
        await server.down()
        await server.delete(PODS, "a", "default")
        await server.put(PODS, "b", "default")
        await server.forget()
        await server.up()
        await known.until(lambda: set(known.objects) == {("default", "b")})
        assert reflector.lists == 2


async def test_a_half_open_connection_is_given_up(server: ApiServer) -> None:
    async with following(server, pace=Pace(watch=0.3, grace=0.2, list=1.0)) as (reflector, known):
        await server.put(PODS, "a", "default")
        await known.until(lambda: len(known.objects) == 1)
        server.answering.clear()
        async with asyncio.timeout(_SOON):
            while not reflector.trouble:  # noqa: ASYNC110  it is a fact, not an event
                await asyncio.sleep(0.01)
        assert "no answer within" in reflector.trouble
        server.answering.set()
        await server.put(PODS, "b", "default")
        await known.until(lambda: len(known.objects) == 2)
        assert reflector.lists == 1


async def test_nonsense_is_followed_by_a_list(server: ApiServer) -> None:
    async with following(server) as (_, known):
        await server.watched(PODS)
        await server.inject(PODS, b"<html>")
        await known.until(lambda: known.lists == 2)
        await server.put(PODS, "a", "default")
        await known.until(lambda: len(known.objects) == 1)


async def test_objects_of_unknown_versions_and_kinds_are_named_and_stop_nothing(server: ApiServer) -> None:
    """What was known of them counts, and that they were deleted counts as well."""
    async with following(server) as (reflector, known):
        await server.put(PODS, "a", "default")
        await known.until_count(1)
        await server.watched(PODS)

        def line(event: str, version: str, kind: str, name: str) -> bytes:
            metadata = {"name": name, "namespace": "default", "resourceVersion": str(server.version)}
            return json.dumps({"type": event, "object": {
                "apiVersion": version, "kind": kind, "metadata": metadata, "spec": ["new"]}}).encode()

        await server.inject(PODS, line("MODIFIED", "v9", "Pod", "a"))
        await server.inject(PODS, line("ADDED", "v1", "Podlet", "b"))
        await known.until(lambda: known.doubtful == {("default", "a"), ("default", "b")})
        assert set(known.objects) == {("default", "a")}
        await server.inject(PODS, line("DELETED", "v9", "Pod", "a"))
        await known.until_count(0)
        await server.put(PODS, "c", "default")
        await known.until_count(1)
        assert (reflector.lists, reflector.trouble) == (1, "")


async def test_trouble_is_said_once_and_ends(server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    server.forbidden.add(PODS)
    async with following(server) as (reflector, known):
        async with asyncio.timeout(_SOON):
            while len(server.requests) < 4:  # noqa: ASYNC110  the server counts
                await asyncio.sleep(0.01)
        assert reflector.trouble.startswith("pods of v1: the API server ")
        server.forbidden.clear()
        await known.until(lambda: known.lists == 1)
        assert reflector.trouble == ""
    assert sum("forbidden" in record.message for record in caplog.records) == 1


async def test_a_server_that_is_busy_is_left_alone_as_long_as_it_asks(server: ApiServer) -> None:
    server.refusals = [(429, {"Retry-After": "1"})]
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with following(server) as (_, known):
        await known.until(lambda: known.lists == 1)
    assert loop.time() - began >= 1.0


async def test_a_kind_that_need_not_be_there(server: ApiServer) -> None:
    """Is excused, and empty when the server says twice that it is not there, or found when it is."""
    async with following(server, kinds.CALICO_TIERS, Pace(absent=0.05)) as (reflector, known):
        await known.until(lambda: known.excuses == 1)
        await known.until(lambda: known.lists > 0)
        assert reflector.trouble == ""
        server.kinds.update(CALICO)
        await server.put(TIERS, "a", spec={})
        await known.until_count(1)
        server.kinds.pop(TIERS)
        await server.end_watches()
        await known.until_count(0)


async def test_a_kind_that_need_not_be_there_and_may_not_be_read_is_as_it_was(server: ApiServer) -> None:
    server.kinds.update(CALICO)
    await server.put(TIERS, "a", spec={})
    async with following(server, kinds.CALICO_TIERS, Pace(absent=0.02)) as (_, known):
        await known.until_count(1)
        server.forbidden.add(TIERS)
        await server.end_watches()
        await known.until(lambda: known.excuses >= 3)
        assert len(known.objects) == 1


async def test_a_kind_that_must_be_there_is_waited_for(server: ApiServer) -> None:
    del server.kinds[PODS]
    async with following(server) as (reflector, known):
        async with asyncio.timeout(_SOON):
            while "does not serve this kind" not in reflector.trouble:  # noqa: ASYNC110  it is a fact, not an event
                await asyncio.sleep(0.01)
        assert known.lists == 0
        server.kinds[PODS] = ("v1", "Pod")
        await known.until(lambda: known.lists == 1)


@pytest.mark.parametrize("seed", range(4))
async def test_random_events_and_mishaps(server: ApiServer, seed: int) -> None:
    """In the end what is known is what there is, at the version that each object has."""
    dice = random.Random(seed)
    async with following(server, pace=Pace(page=3, watch=0.4, grace=0.2, list=5.0, pause=0.02)) as (_, known):
        there: dict[Name, str] = {}
        for _ in range(150):
            name = f"p{dice.randrange(12)}"
            match dice.randrange(20):
                case 0:
                    await server.forget()
                case 1:
                    await server.end_watches()
                case 2:
                    await server.bookmark(PODS)
                case 3:
                    server.refusals.append((dice.choice((410, 500, 503)), {}))
                case 4:
                    await server.inject(PODS, dice.choice((b"{", b'{"type":"ERROR","object":{"code":410}}')))
                case 5 if dice.random() < 0.3:
                    await server.down()
                    await server.up()
                case number if number < 10 and ("default", name) in there:
                    await server.delete(PODS, name, "default")
                    del there["default", name]
                case _:
                    item = await server.put(PODS, name, "default")
                    there["default", name] = item["metadata"]["resourceVersion"]
            if dice.random() < 0.3:
                await asyncio.sleep(dice.random() * 0.02)
        await known.until(lambda: known.objects == there)
