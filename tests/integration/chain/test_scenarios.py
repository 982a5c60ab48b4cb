"""What runtimes do to a node, command by command, and what must be so after each.

One node for all scenarios: each must leave it as it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from muslin import netns, rpc
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from muslin.etcd import keys
from tests.support import ipam_invariants
from tests.support.chain import Done
from tests.support.netns import command, namespaces
from tests.support.stack import Pod, Stack, running

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running(tmp_path_factory.mktemp("scenarios")) as stack:
        command(stack.node, "ip", "address", "add", "10.9.9.9/32", "dev", "lo")  # for pods to answer to
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def stack(node: Stack) -> AsyncIterator[Stack]:
    """The node, which must be after a scenario what it was before: no attachment, nothing in the kernel."""
    yield node
    assert attachments(node) == {}
    assert node.leftovers() == {}
    assert broken(node) == []


@pytest.fixture
def sandboxes() -> Iterator[list[Path]]:
    with namespaces(2, "pod") as paths:
        yield list(paths)


def attachments(stack: Stack) -> dict[str, list[str]]:
    """Addresses by attachment, by endpoint records; which the handles must agree with."""
    records = stack.records()
    endpoints = {key.removeprefix(keys.ENDPOINTS): sorted(record["addresses"])
                 for key, record in records.items() if key.startswith(keys.ENDPOINTS)}
    handles = {key.removeprefix(keys.IPAM_HANDLES): sorted(a["address"] for a in record["addresses"])
               for key, record in records.items() if key.startswith(keys.IPAM_HANDLES)}
    assert endpoints == handles
    return endpoints


def broken(stack: Stack) -> list[Any]:
    raw = {key: json.dumps(value).encode() for key, value in stack.records().items()}
    return list(ipam_invariants.violations(raw))


def address(done: Done) -> str:
    assert done.status == 0, done
    return str(json.loads(done.stdout)["ips"][0]["address"]).split("/")[0]


def reaches(stack: Stack, pod: Pod, target: str) -> bool:
    """Whether it is the pod that answers its node: by refusing a connection to a port where nobody listens."""
    def connect() -> bool:
        try:
            socket.create_connection((target, 1), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    return netns.run(stack.node, connect) and target in command(pod.netns, "ip", "-4", "address")


async def delete(stack: Stack, *pods: Pod) -> None:
    for pod in pods:
        done = await stack.invoke("DEL", pod)
        assert done.status == 0, done


async def test_the_old_sandbox_of_a_restarted_pod_is_deleted_late(stack: Stack, sandboxes: list[Path]) -> None:
    """ADD X, ADD Y for the same pod, DEL X leaves Y: its address, record, veth and route, though the names are one."""
    old, new = (Pod(name, path, name="web") for name, path in zip("xy", sandboxes, strict=True))
    first, second = address(await stack.invoke("ADD", old)), address(await stack.invoke("ADD", new))
    assert first != second
    await delete(stack, old)
    assert attachments(stack) == {"net/y/eth0": [second]}
    assert reaches(stack, new, second)
    await delete(stack, old)
    assert reaches(stack, new, second)
    await delete(stack, new)


async def test_the_sequence_that_cnitool_makes(stack: Stack, sandboxes: list[Path]) -> None:
    """CHECK after ADD succeeds, a second ADD does not, DEL does twice, and CHECK after it does not."""
    pod = Pod("c", sandboxes[0])
    added = await stack.invoke("ADD", pod)
    checked = stack.configuration() | {"prevResult": json.loads(added.stdout)}
    assert (await stack.invoke("CHECK", pod, checked)).status == 0
    assert (await stack.invoke("ADD", pod)).status != 0
    assert (await stack.invoke("CHECK", pod, checked)).status == 0
    for _ in range(2):
        assert (await stack.invoke("DEL", pod, checked)).status == 0
    assert (await stack.invoke("CHECK", pod, checked)).status != 0


@pytest.mark.parametrize("frozen", ["policy", "endpoint", "node"])
async def test_a_second_add_that_fails_on_the_way_leaves_the_first(
        stack: Stack, sandboxes: list[Path], frozen: str) -> None:
    """A service does not answer: the rollback must not take the running pod's address."""
    pod = Pod("c", sandboxes[0])
    first = address(await stack.invoke("ADD", pod))
    hurried = stack.configuration()
    hurried["muslin"]["timeout"] = 1.5
    pid = stack.pid(frozen)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert (await stack.invoke("ADD", pod, hurried)).error["code"] == 11
    finally:
        os.kill(pid, signal.SIGCONT)
    assert attachments(stack) == {"net/c/eth0": [first]}
    assert reaches(stack, pod, first)
    await delete(stack, pod)


async def test_a_second_interface_of_a_sandbox(stack: Stack, sandboxes: list[Path]) -> None:
    """Has an address of its own, and goes by itself."""
    first, second = Pod("c", sandboxes[0]), Pod("c", sandboxes[0], ifname="net1")
    one, two = address(await stack.invoke("ADD", first)), address(await stack.invoke("ADD", second))
    assert attachments(stack) == {"net/c/eth0": [one], "net/c/net1": [two]}
    await delete(stack, second)
    assert attachments(stack) == {"net/c/eth0": [one]}
    assert reaches(stack, first, one)
    await delete(stack, first)


async def test_a_delete_before_the_add(stack: Stack, sandboxes: list[Path]) -> None:
    """Succeeds, and does not stand in the way of the ADD."""
    pod = Pod("c", sandboxes[0])
    await delete(stack, pod)
    assert reaches(stack, pod, address(await stack.invoke("ADD", pod)))
    await delete(stack, pod)


async def test_the_same_add_twice_at_once(stack: Stack, sandboxes: list[Path]) -> None:
    """The interface is made once. If one is told that it failed, the other's pod is whole."""
    pod = Pod("c", sandboxes[0])
    outcomes = await asyncio.gather(stack.invoke("ADD", pod), stack.invoke("ADD", pod))
    succeeded = [done for done in outcomes if done.status == 0]
    assert len(succeeded) == 1
    assert attachments(stack) == {"net/c/eth0": [address(succeeded[0])]}
    assert reaches(stack, pod, address(succeeded[0]))
    await delete(stack, pod)


async def test_an_add_and_its_own_delete_at_once(stack: Stack, sandboxes: list[Path]) -> None:
    """Whatever their order was, a DEL after both leaves nothing."""
    pod = Pod("c", sandboxes[0])
    for _ in range(5):
        await asyncio.gather(stack.invoke("ADD", pod), stack.invoke("DEL", pod))
        await delete(stack, pod)
        assert attachments(stack) == {}


async def test_a_sandbox_whose_namespace_is_gone(stack: Stack) -> None:
    """The machine lost it; the DEL has no CNI_NETNS that exists, and frees all."""
    with namespaces(1, "gone") as (path,):
        pod = Pod("c", path)
        assert (await stack.invoke("ADD", pod)).status == 0
    await delete(stack, pod)


async def test_an_add_into_a_namespace_that_is_not_there(stack: Stack, tmp_path: Path) -> None:
    error = (await stack.invoke("ADD", Pod("c", tmp_path / "none"))).error
    assert error["code"] == 7
    assert "CNI_NETNS" in error["msg"]


async def test_a_freed_address_is_not_the_next_one_given(stack: Stack, sandboxes: list[Path]) -> None:
    """ADD, DEL, ADD: connections to the old pod do not meet the new one."""
    pod = Pod("c", sandboxes[0])
    first = address(await stack.invoke("ADD", pod))
    await delete(stack, pod)
    assert address(await stack.invoke("ADD", pod)) != first
    await delete(stack, pod)


async def test_full_and_disabled_pools(stack: Stack, sandboxes: list[Path]) -> None:
    """A full pool's work is done by the next; a disabled one's pods live on; where there is none, the error says so."""
    async with rpc.channel(f"unix:{stack.run}/ipam.sock") as channel:
        ipam: ipam_pb2_grpc.IpamAsyncStub = ipam_pb2_grpc.IpamStub(channel)
        for name, cidr in (("a", "10.7.0.0/32"), ("b", "10.7.1.0/32")):
            await ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=ipam_pb2.Pool(
                name=name, cidr=cidr, block_size=32, cool_down_seconds=0)), timeout=10)
            config = stack.configuration(ipam={"type": "muslin-ipam", "ipv4_pools": ["a", "b"]})
        only_b = stack.configuration(ipam={"type": "muslin-ipam", "ipv4_pools": ["b"]})
        one, two = (Pod(name, path) for name, path in zip("ab", sandboxes, strict=True))
        first, second = address(await stack.invoke("ADD", one, config)), await stack.invoke("ADD", two, config)
        assert {first, address(second)} == {"10.7.0.0", "10.7.1.0"}
        with namespaces(1, "more") as (path,):
            third = Pod("more", path)
            error = (await stack.invoke("ADD", third, config)).error
            assert error["code"] == 103
            assert "a (10.7.0.0/32)" in error["msg"]
            await ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name="a", disabled=True), timeout=10)
            assert reaches(stack, one, first)
            await delete(stack, one, two)
            error = (await stack.invoke("ADD", third, config)).error
            assert error["code"] == 7
            assert "a (10.7.0.0/32) is disabled" in error["msg"]
            assert address(await stack.invoke("ADD", third, only_b)) == "10.7.1.0"
            await delete(stack, third)
        for name in ("a", "b"):
            await ipam.DeletePool(ipam_pb2.DeletePoolRequest(name=name), timeout=10)
