"""First in a list, with Debian's portmap, bandwidth and tuning after it: real packets through what all of them made."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from muslin import netns
from tests.support.conflist import Conflist
from tests.support.netns import command, namespace
from tests.support.stack import SHIM, Pod, Stack, running

DEBIAN = Path("/usr/lib/cni")
HOST = "10.9.9.9"

pytestmark = [pytest.mark.root, pytest.mark.skipif(not (DEBIAN / "portmap").exists(),
                                                   reason="needs containernetworking-plugins")]

CAPABILITIES = {
    "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
    "mac": "02:00:00:00:00:77",
}


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as services:
        command(services.node, "ip", "address", "add", f"{HOST}/32", "dev", "lo")
        yield services


def conflist(stack: Stack, version: str, **more: Any) -> Conflist:
    ours = {name: value for name, value in stack.configuration(**more).items() if name not in ("cniVersion", "name")}
    return Conflist(stack.node, [SHIM.parent, DEBIAN], {"cniVersion": version, "name": "net", "plugins": [
        {**ours, "capabilities": {"mac": True, "ips": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "511"}},
    ]})


@contextmanager
def listening(path: Path, port: int) -> Iterator[None]:
    """A listener in a pod; the kernel answers for it."""
    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", port))

    with netns.run(path, listen):
        yield


def reached(path: Path, address: str, port: int) -> bool:
    """Whether a connection from a namespace is accepted."""
    def connect() -> bool:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except OSError:
            return False
        return True

    return netns.run(path, connect)


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"]).split("/")[0]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
async def test_all_of_a_list_work_on_our_interface(stack: Stack, version: str) -> None:
    chain = conflist(stack, version, policy={})
    with namespace("pod") as path, namespace("pod") as other:
        pod, client = Pod("c1", path), Pod("c2", other)
        result = await chain.add(pod, CAPABILITIES)
        await chain.add(client, {})
        host, inside = result["interfaces"][:2]
        assert (inside["name"], inside["sandbox"], inside["mac"]) == ("eth0", str(path), CAPABILITIES["mac"])
        assert str(CAPABILITIES["mac"]) in command(path, "ip", "link", "show", "eth0")
        assert "tbf" in command(stack.node, "tc", "qdisc", "show", "dev", host["name"])
        assert netns.run(path, lambda: Path("/proc/sys/net/core/somaxconn").read_text().strip()) == "511"
        with listening(path, 80):
            assert reached(stack.node, address(result), 80)
            assert reached(stack.node, HOST, 8080), "from the host, by its port"
            assert reached(other, HOST, 8080), "from another pod, by the host's port"
        if version != "0.3.1":
            done = await chain.check(pod, CAPABILITIES)
            # portmap 1.1 looks for IPv6 rules of its own where the pod has no IPv6 address, and finds none
            assert [done[0].status, done[2].status, done[3].status] == [0, 0, 0], done
        for each, capabilities in ((pod, CAPABILITIES), (client, {})):
            await chain.delete(each, capabilities)
            await chain.delete(each, capabilities)
        rules = command(stack.node, "iptables", "-t", "nat", "-S")
        assert "8080" not in rules
        assert "links" not in stack.leftovers()


async def applied(stack: Stack, *objects: dict[str, Any]) -> None:
    """The objects are in force."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "muslin.cli.main", "apply", "-f", "-", "--run-dir", str(stack.run),
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
    _, said = await process.communicate("\n---\n".join(map(json.dumps, objects)).encode())
    assert process.returncode == 0, said.decode()


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(found):  # noqa: ASYNC110 - a packet gives us no event
            await asyncio.sleep(0.1)


async def test_a_policy_holds_for_what_comes_through_a_host_port(stack: Stack) -> None:
    """It looks at packets after their destination is translated."""
    chain = conflist(stack, "1.0.0")
    await applied(stack, *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                           for name in ("default", "shop")))
    with namespace("pod") as path, namespace("pod") as other:
        pod, client = Pod("c1", path, "shop", "web"), Pod("c2", other)
        await chain.add(pod, CAPABILITIES)
        await chain.add(client, {})
        with listening(path, 80):
            assert reached(other, HOST, 8080)
            await applied(stack, {
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": "deny", "namespace": "shop"},
                "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}})
            await until(lambda: not reached(other, HOST, 8080))
            assert reached(stack.node, HOST, 8080), "its own host is not policed"
        await chain.delete(pod, CAPABILITIES)
        await chain.delete(client, {})


async def test_host_local_in_the_place_of_our_addresses(stack: Stack, tmp_path: Path) -> None:
    """A /24 with a gateway on a bridge that is not there: the pod is wired as any other of ours."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "data"),
            "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    chain = conflist(stack, "1.0.0", ipam=ipam, policy={})
    with namespace("pod") as path, namespace("pod") as other:
        pods = [Pod("c1", path), Pod("c2", other)]
        results = [await chain.add(pod, {}) for pod in pods]
        assert [address(result) for result in results] == ["10.77.0.2", "10.77.0.3"]
        with listening(path, 80):
            assert reached(stack.node, "10.77.0.2", 80)
            assert reached(other, "10.77.0.2", 80)
        for pod in pods:
            done = await chain.check(pod, {})  # bandwidth 1.1 panics where it has nothing to do
            assert [done[0].status, done[1].status, done[3].status] == [0, 0, 0], done
            await chain.delete(pod, {})
        assert [path.name for path in (tmp_path / "data/net").iterdir() if path.name.startswith("10.")] == []
        assert "links" not in stack.leftovers()
        assert stack.records().keys().isdisjoint({"c1", "c2"})
