"""The inventory holds what the endpoint service said last, through interruptions, and nobody waits for it in vain."""

from __future__ import annotations

import asyncio

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from services.ipam.inventory import Inventory, Namespace, Node, Pod

Change = endpoint_pb2.InventoryChange
Response = endpoint_pb2.WatchInventoryResponse
LONG = 30.0


def pod(name: str, uid: str = "", gone: bool = False, annotations: dict[str, str] | None = None) -> Change:
    return Change(deleted=gone, pod=endpoint_pb2.Pod(namespace="ns", name=name, uid=uid, annotations=annotations))


def synced(*changes: Change) -> Inventory:
    made = Inventory("unix:/nowhere")
    made.begin()
    made.take(Response(changes=changes))
    made.take(Response(snapshot_complete=True))
    return made


def test_what_is_known() -> None:
    made = Inventory("unix:/nowhere")
    assert not made.synced
    made.begin()
    made.take(Response(changes=[
        pod("a", "u", annotations={"muslin.dev/x": "1", "cni.projectcalico.org/y": "2", "other.example/z": "3"}),
        Change(namespace=endpoint_pb2.Namespace(name="ns", labels={"l": "1"}, annotations={"muslin.dev/x": "1"})),
        Change(node=endpoint_pb2.Node(name="n", labels={"l": "2"})), Change()]))
    assert not made.synced, "the snapshot is not complete"
    made.take(Response(snapshot_complete=True))
    assert made.synced
    assert made.pod("ns", "a") == Pod("u", {"muslin.dev/x": "1", "cni.projectcalico.org/y": "2"})
    assert made.namespace("ns") == Namespace({"l": "1"}, {"muslin.dev/x": "1"})
    assert made.node("n") == Node({"l": "2"})
    assert (made.pod("ns", "b"), made.namespace("a"), made.node("ns")) == (None, None, None)


def test_changes() -> None:
    made = synced(pod("a"), pod("b"))
    made.take(Response(changes=[pod("a", gone=True), pod("b", "u2"), pod("c"), pod("absent", gone=True)]))
    assert [made.pod("ns", name) for name in "abc"] == [None, Pod("u2"), Pod()]


def test_while_nothing_is_heard_what_was_known_counts() -> None:
    """A new snapshot replaces it only once it is complete."""
    made = synced(pod("a"), pod("b", "old"))
    made.lost("gone away")
    assert (made.synced, made.trouble) == (False, "unix:/nowhere: gone away")
    assert made.pod("ns", "a") == Pod()
    made.begin()
    made.take(Response(changes=[pod("b", "new")]))
    assert (made.pod("ns", "a"), made.pod("ns", "b")) == (Pod(), Pod("new"))
    made.take(Response(snapshot_complete=True))
    assert (made.synced, made.pod("ns", "a"), made.pod("ns", "b")) == (True, None, Pod("new"))


async def test_a_snapshot_that_was_cut_short_does_not_name_for_the_next() -> None:
    made = synced(pod("a"))
    made.begin()
    made.take(Response(changes=[pod("a")]))
    made.lost("cut")
    made.begin()
    made.take(Response(snapshot_complete=True))
    assert made.pod("ns", "a") is None


async def test_a_pod_that_is_about_to_be_known_is_waited_for() -> None:
    made = synced(pod("other"))
    waiting = asyncio.create_task(made.settle("ns", "a", "", LONG))
    await asyncio.sleep(0)
    made.take(Response(changes=[pod("b")]))
    await asyncio.sleep(0)
    assert not waiting.done()
    made.take(Response(changes=[pod("a", "u")]))
    assert await waiting == Pod("u")


async def test_an_older_pod_of_the_same_name_does_not_count() -> None:
    made = synced(pod("a", "old"))
    assert await made.settle("ns", "a", "", LONG) == Pod("old")
    waiting = asyncio.create_task(made.settle("ns", "a", "new", LONG))
    await asyncio.sleep(0)
    assert not waiting.done()
    made.take(Response(changes=[pod("a", "new")]))
    assert await waiting == Pod("new")
    assert await made.settle("ns", "a", "old", 0.01) is None


@pytest.mark.parametrize("made", [synced(), Inventory("unix:/nowhere"), synced(pod("b"))],
                         ids=["nobody tells of pods", "not reached", "lost"])
async def test_nobody_waits_in_vain(made: Inventory) -> None:
    """The first snapshot is waited for; a service that can not be reached, or that knows no pods at all, is not."""
    if not made.synced or made.pod("ns", "b"):
        made.lost("not there")
    async with asyncio.timeout(1):
        assert await made.settle("ns", "a", "", LONG) is None


async def test_the_first_snapshot_is_waited_for() -> None:
    made = Inventory("unix:/nowhere")
    waiting = asyncio.create_task(made.settle("ns", "a", "", LONG))
    await asyncio.sleep(0)
    assert not waiting.done()
    made.begin()
    made.take(Response(changes=[pod("a")], snapshot_complete=True))
    assert await waiting == Pod()
