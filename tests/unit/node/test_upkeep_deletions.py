"""Deletions that were put off: their files, their order, what stays, what is put aside; and the gate before ADDs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.errors import Corrupt, InvalidArgument, IOFailure, MuslinError, TimedOut, Unavailable
from services.node.attachment import Attachment
from services.node.upkeep.chain import call_of, passing
from services.node.upkeep.gate import Gate
from services.node.upkeep.journal import FAILED_KEPT, Entry, Journal, Waiting
from services.node.upkeep.replay import TRIES, Replay

CONFIG = b'{"cniVersion": "1.0.0", "name": "net", "type": "muslin"}'


def put(directory: Path, number: int, container: str = "c", *, raw: bytes | None = None) -> Path:
    """A file as the plugin writes it."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{number:020}.{container}.eth0.call"
    call = cni_pb2.Call(container_id=container, ifname="eth0", config=CONFIG)
    path.write_bytes(call.SerializeToString() if raw is None else raw)
    return path


class Scripted:
    """Stands where the chain does: says what fails, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[list[MuslinError]]] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.went_on: list[bool] = []

    async def delete(self, call: cni_pb2.Call, go_on: Callable[[], bool] = lambda: True) -> list[MuslinError]:
        self.asked.append(call.container_id)
        self.meanwhile()
        self.went_on.append(go_on())
        answers = self.answers.get(call.container_id, [])
        return answers.pop(0) if answers else []


def replay(directory: Path, chain: Scripted, gate: Gate | None = None) -> Replay:
    return Replay(Journal(directory), chain, gate or Gate())  # type: ignore[arg-type]  # it has what is used of it


async def test_in_order_and_once(tmp_path: Path) -> None:
    """By the time in the name, whatever the directory's order; files of other names are nobody's business here."""
    for number, container in ((30, "c"), (4, "a"), (200, "d"), (21, "b")):
        put(tmp_path / "d", number, container)
    (tmp_path / "d/.unfinished").write_bytes(b"")
    chain = Scripted()
    assert await replay(tmp_path / "d", chain).once()
    assert chain.asked == ["a", "b", "c", "d"]
    assert await replay(tmp_path / "d", chain).once()
    assert chain.asked == ["a", "b", "c", "d"]
    assert [path.name for path in (tmp_path / "d").iterdir()] == [".unfinished"]


async def test_nothing_waits_where_there_is_no_directory(tmp_path: Path) -> None:
    made = replay(tmp_path / "nowhere", Scripted())
    assert await made.once()
    assert made.waiting == Waiting()


async def test_a_service_that_is_away_ends_the_attempt_and_loses_nothing(tmp_path: Path) -> None:
    for number, container in enumerate("abc", 1):
        put(tmp_path / "d", number, container)
    chain = Scripted()
    chain.answers["b"] = [[Unavailable("ipam: away")]]
    made = replay(tmp_path / "d", chain)
    assert not await made.once()
    assert chain.asked == ["a", "b"], "c would find the same"
    assert made.waiting.count == 2
    assert made.waiting.oldest_seconds > 1e9, "by its name"
    assert await made.once()
    assert chain.asked == ["a", "b", "b", "c"]


async def test_one_that_only_takes_too_long_does_not_hold_up_the_others(tmp_path: Path) -> None:
    for number, container in enumerate("ab", 1):
        put(tmp_path / "d", number, container)
    chain = Scripted()
    chain.answers["a"] = [[TimedOut("ipam: no answer"), InvalidArgument("policy: never")]]
    made = replay(tmp_path / "d", chain)
    assert not await made.once()
    assert chain.asked == ["a", "b"]
    assert made.waiting.count == 1, "that another service refused it for good is no reason to give up the first"


async def test_what_can_never_be_done_is_put_aside(tmp_path: Path) -> None:
    put(tmp_path / "d", 1, "a")
    put(tmp_path / "d", 2, "b", raw=b"\xff")
    put(tmp_path / "d", 3, "c", raw=b"")
    chain = Scripted()
    chain.answers["a"] = [[InvalidArgument("ipam: network")]]
    made = replay(tmp_path / "d", chain)
    assert await made.once()
    assert made.waiting == Waiting(0, 0.0, 3)
    assert chain.asked == ["a"]


async def test_a_failure_that_says_nothing_is_tried_again_for_a_while(tmp_path: Path) -> None:
    put(tmp_path / "d", 1, "a")
    chain = Scripted()
    chain.answers["a"] = [[IOFailure("node: disk")]] * (TRIES + 5)
    made = replay(tmp_path / "d", chain)
    done = [await made.once() for _ in range(TRIES)]
    assert done == [False] * (TRIES - 1) + [True]
    assert made.waiting.failed == 1


async def test_what_the_plugin_does_itself_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    """It deletes the file before it begins an ADD of the same attachment."""
    path = put(tmp_path / "d", 1, "a")
    chain = Scripted()
    chain.meanwhile = path.unlink
    made = replay(tmp_path / "d", chain)
    assert await made.once()
    assert chain.went_on == [False]
    assert made.waiting == Waiting()


async def test_no_deletion_while_its_add_is_under_way(tmp_path: Path) -> None:
    put(tmp_path / "d", 1, "a")
    chain, gate = Scripted(), Gate()
    made = replay(tmp_path / "d", chain, gate)
    await gate.adding(("a", "eth0"), 10)
    assert not await made.once()
    assert chain.asked == []
    gate.over(("a", "eth0"))
    assert await made.once()
    assert chain.asked == ["a"]


def test_of_those_put_aside_the_newest_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "d")
    for number in range(FAILED_KEPT + 7):
        journal.give_up(Entry(put(tmp_path / "d", number)))
    kept = sorted(path.name for path in (tmp_path / "d/failed").iterdir())
    assert kept == [f"{number:020}.c.eth0.call" for number in range(7, FAILED_KEPT + 7)]
    journal.give_up(Entry(tmp_path / "d/gone.call"))


def test_the_age_is_that_of_the_name() -> None:
    assert Entry(Path("00000000001000000000.c.eth0.call")).age(3_500_000_000) == 2.5
    assert Entry(Path("00000000009000000000.c.eth0.call")).age(3_500_000_000) == 0.0, "a clock that was set back"
    assert Entry(Path("what.call")).age(3_500_000_000) == 0.0


def test_a_call_is_never_told(tmp_path: Path) -> None:
    """Its configuration may hold secrets."""
    path = put(tmp_path / "d", 1, raw=b"secret" * 9)
    with pytest.raises(Corrupt) as refused:
        Journal(tmp_path / "d").read(Entry(path))
    assert "secret" not in str(refused.value)


async def test_an_add_waits_for_a_deletion_of_ours_and_no_longer() -> None:
    gate, key = Gate(), ("a", "eth0")
    async with gate.closed(key) as ours:
        assert ours
        assert gate.busy(key)
        waiting = asyncio.ensure_future(gate.adding(key, 10))
        await gate.adding(("a", "eth1"), 10)
        async with gate.closed(key) as again:
            assert not again
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert gate.busy(key)
    async with gate.closed(key) as ours:
        assert not ours, "the ADD that waited has begun"


async def test_an_add_whose_deadline_has_passed_is_not_under_way() -> None:
    now = [0.0]
    gate = Gate(lambda: now[0])
    await gate.adding(("a", "eth0"), 5)
    await gate.adding(("b", "eth0"), None)
    now[0] = 5.0
    assert not gate.busy(("a", "eth0"))
    assert gate.busy(("b", "eth0"))


def test_which_failures_pass() -> None:
    assert passing(Unavailable(""))
    assert passing(TimedOut(""))
    assert not passing(InvalidArgument(""))
    assert not passing(IOFailure(""))


def test_a_call_of_our_own_says_who_and_nothing_else() -> None:
    call = call_of(Attachment("net", "c", "eth0"), "/run/netns/c", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b")
    assert (call.container_id, call.ifname, call.netns, call.config) == (
        "c", "eth0", "/run/netns/c", CONFIG)
