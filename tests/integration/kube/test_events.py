"""Events reach the API server, few and whole, and whatever it does to them stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from muslin.kube.access import Access
from muslin.kube.client import Client
from muslin.kube.events import LONGEST, Limits, Recorder, Subject
from tests.support.apiserver import ApiServer

_SOON = 60.0
FAST = Limits(again=0.2, other=0.0, gap=0.001, denied=0.1)


def pod(name: str) -> Subject:
    return Subject("v1", "Pod", "shop", name, f"uid-{name}")


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as made:
        yield made


@asynccontextmanager
async def recording(server: ApiServer, limits: Limits) -> AsyncIterator[Recorder]:
    client = Client(lambda: Access(server.url, "the test"))
    recorder = Recorder(client, "muslin-test", limits)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        assert not task.done(), "whatever the server does, it goes on"
        task.cancel()
        await asyncio.wait([task])
        await client.aclose()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON):
        while not holds():  # noqa: ASYNC110  the server is asked, which tells nobody
            await asyncio.sleep(0.01)


async def test_an_event_is_what_kubectl_describe_looks_for(server: ApiServer) -> None:
    async with recording(server, FAST) as recorder:
        recorder.warn(pod("web"), "InvalidAnnotation", "no such pool")
        await until(lambda: bool(server.events()))
    (event,) = server.events()
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web",
                                       "uid": "uid-web"}
    assert (event["metadata"]["namespace"], event["type"], event["reason"], event["message"], event["count"]) == (
        "shop", "Warning", "InvalidAnnotation", "no such pool", 1)
    assert event["metadata"]["name"].startswith("web.")
    assert event["firstTimestamp"] <= event["lastTimestamp"]


async def test_of_what_is_in_no_namespace_events_are_in_default(server: ApiServer) -> None:
    async with recording(server, FAST) as recorder:
        recorder.warn(Subject("v1", "Node", "", "n1", "u"), "Reason", "x" * 2000)
        await until(lambda: bool(server.events()))
    (event,) = server.events()
    assert event["metadata"]["namespace"] == "default"
    assert "namespace" not in event["involvedObject"]
    assert len(event["message"]) == LONGEST


async def test_what_is_said_again_is_counted_and_written_seldom(server: ApiServer) -> None:
    async with recording(server, Limits(again=0.3, other=0.0, gap=0.001)) as recorder:
        recorder.warn(pod("web"), "Reason", "the same")
        await until(lambda: bool(server.events()))
        for _ in range(199):
            recorder.warn(pod("web"), "Reason", "the same")
        await until(lambda: [event["count"] for event in server.events()] == [200])
        assert len(server.writes) == 2, "one that made it, and one that counted all the rest"
        recorder.warn(pod("web"), "Reason", "now another")
        await until(lambda: [(event["count"], event["message"]) for event in server.events()] == [(201, "now another")])


async def test_a_flood_is_throttled(server: ApiServer) -> None:
    """Of 500 objects at once the burst is written; the rest comes by and by, or is forgotten where it is too much."""
    async with recording(server, Limits(gap=3600.0, burst=7, most=100)) as recorder:
        for number in range(500):
            recorder.warn(pod(f"p{number}"), "Reason", "x")
        await until(lambda: len(server.events()) == 7)
        await asyncio.sleep(0.1)
        assert len(server.writes) == 7
    assert {event["involvedObject"]["name"] for event in server.events()} == {f"p{n}" for n in range(400, 407)}


async def test_an_event_that_the_server_has_forgotten_is_made_anew(server: ApiServer) -> None:
    async with recording(server, FAST) as recorder:
        recorder.warn(pod("web"), "Reason", "x")
        await until(lambda: bool(server.events()))
        (event,) = server.events()
        await server.delete("/api/v1/events", event["metadata"]["name"], "shop")
        recorder.warn(pod("web"), "Reason", "x")
        await until(lambda: [event["count"] for event in server.events()] == [2])


async def test_a_server_that_may_not_be_written_is_complained_of_once(
        server: ApiServer, caplog: pytest.LogCaptureFixture) -> None:
    server.read_only = True
    async with recording(server, FAST) as recorder:
        for number in range(5):
            recorder.warn(pod(f"p{number}"), "Reason", "x")
        await until(lambda: len(server.writes) >= 15)
        said = [record.message for record in caplog.records if "an event is not written" in record.message]
        assert len(said) == 1
        assert "HTTP 403" in said[0]
        assert said[0].endswith("a role must allow create and patch of events")
        server.read_only = False
        await until(lambda: len(server.events()) == 5)


async def test_a_server_that_is_away_gets_them_later_and_once(server: ApiServer) -> None:
    async with recording(server, FAST) as recorder:
        await server.down()
        recorder.warn(pod("web"), "Reason", "x")
        recorder.warn(pod("web"), "Reason", "x")
        await asyncio.sleep(0)
        await server.up()
        await until(lambda: [event["count"] for event in server.events()] == [2])
    assert len(server.events()) == 1


async def test_an_answer_that_is_lost_makes_no_second_event(server: ApiServer) -> None:
    """It was made, and the answer was an error: asking again by the same name finds it there."""
    async with recording(server, FAST) as recorder:
        server.fail_after_write = 1
        recorder.warn(pod("web"), "Reason", "x")
        await until(lambda: len(server.writes) >= 2)
        recorder.warn(pod("web"), "Reason", "x")
        await until(lambda: [event["count"] for event in server.events()] == [2])
    assert len(server.events()) == 1
