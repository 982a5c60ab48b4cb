"""DEL while services are away: what can be undone is, the rest is put off, and nothing of it meets a later ADD."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from muslin.api.cni.v1 import cni_pb2
from tests.support.chain import ATTACHMENT, SERVICES, Chain, configuration, invoke, serving

PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED,
           grpc.StatusCode.ABORTED)
SECRET = "a-password-that-must-not-be-shown"


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "muslin.sock"


@pytest.fixture
async def chain(socket: Path) -> AsyncIterator[Chain]:
    services = Chain()
    async with serving(services, socket):
        yield services


def waiting(socket: Path) -> list[Path]:
    """The files, oldest first; no other is beside them."""
    folder = socket.parent / "state/deletions"
    found = sorted(folder.iterdir()) if folder.exists() else []
    assert all(path.suffix == ".call" for path in found)
    return found


async def test_without_the_daemon_it_is_put_off_once(plugin: Path, socket: Path) -> None:
    config = configuration(socket, password=SECRET)
    for _ in range(2):
        done = await invoke(plugin, "DEL", config)
        assert (done.status, done.stdout) == (0, b"")
        assert "DEL is put off until it can be done: node: can not connect to" in done.stderr
        assert SECRET not in done.stderr
    entry, = waiting(socket)
    assert entry.name[20:] == ".c1.eth0.call"
    call = cni_pb2.Call.FromString(entry.read_bytes())
    assert (call.container_id, call.netns, call.ifname, call.args, call.path) == tuple(ATTACHMENT.values())
    assert SECRET.encode() in call.config


@pytest.mark.parametrize("status", PASSING, ids=lambda status: status.name)
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_may_do_better_later(
        script: Path, chain: Chain, socket: Path, service: str, status: grpc.StatusCode) -> None:
    chain.fails(f"{service}.Del", status, "not now")
    done = await invoke(script, "DEL", configuration(socket))
    assert (done.status, done.stdout, len(waiting(socket))) == (0, b"", 1)
    in_use = service in ("node", "endpoint")
    assert sorted(chain.steps) == sorted(f"{s}.Del" for s in SERVICES if s != "ipam" or not in_use)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_that_will_do_no_better_is_an_error(
        script: Path, chain: Chain, socket: Path, service: str) -> None:
    """Even beside one that would: the runtime is to repeat it all."""
    chain.fails("policy.Del", grpc.StatusCode.UNAVAILABLE, "not now")
    chain.fails(f"{service}.Del", grpc.StatusCode.INTERNAL, "broken")
    assert (await invoke(script, "DEL", configuration(socket))).error["code"] in (5, 11)
    assert waiting(socket) == []


async def test_what_a_service_does_not_know_is_deleted(script: Path, chain: Chain, socket: Path) -> None:
    chain.fails("node.Del", grpc.StatusCode.NOT_FOUND, "no such attachment")
    assert (await invoke(script, "DEL", configuration(socket))).status == 0
    assert sorted(chain.steps) == sorted(f"{service}.Del" for service in SERVICES)
    assert waiting(socket) == []


async def test_a_service_that_hangs(plugin: Path, chain: Chain, socket: Path) -> None:
    chain.hangs("node.Del")
    done = await invoke(plugin, "DEL", configuration(socket, muslin={"timeout": 1}))
    assert (done.status, len(waiting(socket))) == (0, 1)
    assert "endpoint.Del" in chain.steps


async def test_where_nothing_can_be_put_off_it_is_to_be_repeated(plugin: Path, socket: Path) -> None:
    (socket.parent / "state").write_text("not a directory")
    error = (await invoke(plugin, "DEL", configuration(socket))).error
    assert error["code"] == 11
    assert f"it can not be put off: {socket.parent}/state/deletions: Not a directory" in error["details"]


async def test_ten_thousand_wait_already(script: Path, socket: Path) -> None:
    folder = socket.parent / "state/deletions"
    folder.mkdir(parents=True)
    for number in range(10_000):
        (folder / f"{number:020}.x.eth0.call").touch()
    error = (await invoke(script, "DEL", configuration(socket))).error
    assert error["code"] == 11
    assert "10000 deletions wait" in error["details"]
    assert len(waiting(socket)) == 10_000


async def test_an_add_does_first_what_was_put_off_of_its_attachment(plugin: Path, socket: Path) -> None:
    """With the configuration that it was asked for with. Of others it leaves it."""
    old = configuration(socket, name="old")
    assert (await invoke(plugin, "DEL", old)).status == 0
    assert (await invoke(plugin, "DEL", old, {**ATTACHMENT, "CNI_CONTAINERID": "c2"})).status == 0
    chain = Chain()
    async with serving(chain, socket):
        assert (await invoke(plugin, "ADD", configuration(socket))).status == 0
    assert chain.steps[:2] == ["node.Del", "endpoint.Del"]
    assert set(chain.steps[2:4]) == {"policy.Del", "ipam.Del"}
    assert [step.split(".")[1] for step in chain.steps[4:]] == ["Add"] * 4
    names = [b'"name": "old"' in asked.call.config for asked in chain.asked]
    assert names == [True] * 4 + [False] * 4
    assert [path.name[20:] for path in waiting(socket)] == [".c2.eth0.call"]


async def test_an_add_fails_while_what_was_put_off_can_not_be_done(plugin: Path, chain: Chain, socket: Path) -> None:
    chain.fails("endpoint.Del", grpc.StatusCode.UNAVAILABLE, "etcd is away")
    assert (await invoke(plugin, "DEL", configuration(socket))).status == 0
    chain.asked.clear()
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert error["code"] == 11
    assert "an earlier DEL of this attachment is still to be done: endpoint: etcd is away" in error["msg"]
    assert [step for step in chain.steps if step.endswith(".Add")] == []
    assert len(waiting(socket)) == 1


async def test_a_rollback_that_can_not_be_finished_is_put_off(plugin: Path, chain: Chain, socket: Path) -> None:
    chain.fails("node.Add", grpc.StatusCode.INTERNAL, "broken")
    chain.fails("endpoint.Del", grpc.StatusCode.UNAVAILABLE, "etcd is away")
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert (error["code"], error["msg"]) == (5, "node: broken")
    assert "the rest of the rollback is put off until it can be done" in error["details"]
    assert len(waiting(socket)) == 1


async def test_an_add_that_reached_nobody_leaves_nothing_to_do(plugin: Path, socket: Path) -> None:
    error = (await invoke(plugin, "ADD", configuration(socket))).error
    assert error["code"] == 11
    assert "rolled back nothing" in error["details"]
    assert waiting(socket) == []
