"""Upkeep with all services: deletions that were put off, records lost and left, pods whose namespace is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from muslin import netns, rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2, endpoint_pb2_grpc
from tests.integration.node.world import reaches
from tests.support.netns import command, namespace
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root

PATIENCE = 60.0
"""Seconds; what is waited for takes less than ten on an idle machine."""


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        yield made


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Of the store's and the kernel's state there is no event here."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.05)


def held(stack: Stack) -> set[str]:
    """What the store has of attachments: keys of records of endpoints and handles of addresses."""
    return {key for key in stack.records() if "/endpoints/" in key or "/handles/" in key}


async def added(stack: Stack, pod: Pod) -> str:
    """ADD without Kubernetes' policy, tried again as long as it is to be; gives the pod's address."""
    async with asyncio.timeout(PATIENCE):
        while (done := await stack.invoke("ADD", pod, stack.configuration(policy={}))).status:
            assert done.error["code"] == 11, done.stdout
    return str(json.loads(done.stdout)["ips"][0]["address"]).partition("/")[0]


async def status(stack: Stack) -> Mapping[str, Any]:
    """What `muslin status` says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "status", "--run-dir", str(stack.run), "--output", "json",
        stdout=asyncio.subprocess.PIPE)
    found: Mapping[str, Any] = json.loads((await process.communicate())[0])
    return found


def deletions(stack: Stack) -> list[str]:
    """Names of the files that wait."""
    directory = stack.state / "deletions"
    return sorted(path.name for path in directory.iterdir() if path.is_file()) if directory.is_dir() else []


async def test_deletions_that_were_put_off_are_done_when_the_services_are_back(stack: Stack) -> None:
    """DEL succeeds with nobody there; everything of the pod goes once somebody is, and the files with it."""
    with namespace("one") as one, namespace("two") as two:
        pods = [Pod("one", one), Pod("two", two)]
        for pod in pods:
            await added(stack, pod)
        await stack.stop()
        for pod in pods:
            assert (await stack.invoke("DEL", pod)).status == 0
        assert len(deletions(stack)) == 2
        await stack.start()
        await until(lambda: not deletions(stack))
        assert held(stack) == set()
        assert stack.leftovers() == {}
        assert not (stack.state / "deletions/failed").exists()


async def test_deletions_wait_for_the_one_service_that_is_away(stack: Stack) -> None:
    """And `muslin status` says how many, since when."""
    with namespace("one") as one:
        pod = Pod("one", one)
        await added(stack, pod)
        call = cni_pb2.Call(container_id="one", ifname="eth0", args=pod.environment["CNI_ARGS"],
                            config=json.dumps(stack.configuration()).encode())
        endpoint = stack.pid("endpoint")
        os.kill(endpoint, signal.SIGSTOP)
        try:
            directory = stack.state / "deletions"
            directory.mkdir(mode=0o700)
            (directory / f"{1:020}.one.eth0.call").write_bytes(call.SerializeToString())
            await until(lambda: stack.leftovers() == {})

            async def said() -> bool:
                return bool((await status(stack))["deletions"]["waiting"] == 1)

            await until(said)
            found = await status(stack)
            assert found["deletions"]["oldest_seconds"] > 1_000_000
            assert found["deletions"]["failed"] == 0
        finally:
            os.kill(endpoint, signal.SIGCONT)
        await until(lambda: not deletions(stack))
        assert held(stack) == set()


async def test_what_can_not_be_a_deletion_is_put_aside(stack: Stack) -> None:
    directory = stack.state / "deletions"
    directory.mkdir(mode=0o700)
    (directory / f"{1:020}.x.eth0.call").write_bytes(b"\xff\xff")
    await until(lambda: not deletions(stack))
    assert [path.name for path in (directory / "failed").iterdir()] == [f"{1:020}.x.eth0.call"]
    assert (await status(stack))["deletions"] == {"waiting": 0, "oldest_seconds": 0.0, "failed": 1}


async def test_a_record_that_was_lost_is_given_back(stack: Stack) -> None:
    """With it the pod's policy: it is reachable again."""
    with namespace("one") as one, namespace("two") as two:
        pods = [Pod("one", one, name="a"), Pod("two", two, name="b")]
        addresses = [await added(stack, pod) for pod in pods]
        assert reaches(one, addresses[1], 80)
        before = {key: record for key, record in stack.records().items() if "/endpoints/" in key}
        async with rpc.channel(f"unix:{stack.run}/endpoint.sock") as channel:
            endpoints: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
            await endpoints.Delete(endpoint_pb2.DeleteRequest(
                attachment=cni_pb2.Attachment(network="net", container_id="two", ifname="eth0")), timeout=10)
        await until(lambda: {key for key in stack.records() if "/endpoints/" in key} == before.keys())
        after = {key: record for key, record in stack.records().items() if "/endpoints/" in key}
        assert after == before
        await until(lambda: reaches(one, addresses[1], 80))
        for pod in pods:
            assert (await stack.invoke("DEL", pod)).status == 0
        assert held(stack) == set()


async def test_a_record_of_which_there_is_nothing_here_goes(stack: Stack) -> None:
    """As of a pod that was here before the machine was started anew; one that is here stays.

    So does what somebody else made here, by another way than the chain.
    """
    with namespace("one") as one:
        await added(stack, Pod("one", one))
        command(stack.node, "ip", "link", "add", "theirs", "type", "veth", "peer", "name", "far")
        async with rpc.channel(f"unix:{stack.run}/endpoint.sock") as channel:
            endpoints: endpoint_pb2_grpc.EndpointsAsyncStub = endpoint_pb2_grpc.EndpointsStub(channel)
            for number, (container, interface) in enumerate((("old", "mus00000000000"), ("theirs", "theirs")), 1):
                await endpoints.Create(endpoint_pb2.CreateRequest(endpoint=endpoint_pb2.WorkloadEndpoint(
                    attachment=cni_pb2.Attachment(network="net", container_id=container, ifname="eth0"), node="node1",
                    addresses=[f"192.168.99.{number}"], host_interface=interface, mac="02:00:00:00:00:01",
                    profiles=["net"])), timeout=10)
        assert len([key for key in stack.records() if "/endpoints/" in key]) == 3
        await until(lambda: sorted(key.rpartition("/net/")[2] for key in stack.records() if "/endpoints/" in key)
                    == ["one/eth0", "theirs/eth0"])


async def test_pods_whose_namespace_is_gone_are_cleaned_up(stack: Stack) -> None:
    """Rules, record and address, without a DEL; which succeeds if it comes. Others keep everything."""
    with namespace("one") as one, namespace("two") as two:
        await added(stack, Pod("one", one))
        await added(stack, Pod("two", two))
        netns.delete(two.name)
        await until(lambda: not any("two" in key for key in held(stack)))
        assert {key.rpartition("/net/")[2] for key in held(stack)} == {"one/eth0"}
        assert "two" not in json.dumps(stack.leftovers())
        assert (await stack.invoke("DEL", Pod("two", two))).status == 0
        assert (await status(stack))["problems"] == []


async def test_a_container_that_was_added_again_is_not_cleaned_up(stack: Stack) -> None:
    """Its first namespace is gone, and it has another: while a pod that really is gone is found, it stays whole."""
    with namespace("one") as one, namespace("again") as again, namespace("two") as two, namespace("other") as other:
        await added(stack, Pod("one", one, name="a"))
        await added(stack, Pod("two", two, name="b"))
        await added(stack, Pod("other", other, name="c"))
        netns.delete(one.name)
        address = await added(stack, Pod("one", again, name="a"))
        netns.delete(two.name)
        await until(lambda: not any("two" in key for key in held(stack)))
        assert {key.rpartition("/net/")[2] for key in held(stack)} == {"one/eth0", "other/eth0"}
        assert reaches(other, address, 80)
        assert (await status(stack))["problems"] == []


async def test_a_veth_that_somebody_deleted_is_reported_until_its_del(stack: Stack) -> None:
    """Its rules go; the pod is there still, so its address and its record stay until its DEL."""
    with namespace("one") as one:
        pod = Pod("one", one)
        await added(stack, pod)
        link = command(stack.node, "ip", "-o", "link", "show", "type", "veth").split(": ")[1].partition("@")[0]
        command(stack.node, "ip", "link", "delete", link)
        await until(lambda: stack.leftovers() == {})

        async def said() -> bool:
            found: list[str] = (await status(stack))["problems"]
            return found == [f"net/one/eth0: its veth {link} is gone, and DEL has not come"]

        await until(said)
        assert len(held(stack)) == 2
        assert (await stack.invoke("DEL", pod)).status == 0
        assert held(stack) == set()
        assert (await status(stack))["problems"] == []
