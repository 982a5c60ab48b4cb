"""The shim with the real services: an ADD of an interface that exists already."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muslin import netns
from muslin.etcd import keys
from tests.support.netns import command, namespace
from tests.support.stack import Pod, Stack, running

pytestmark = pytest.mark.root


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as services:
        command(services.node, "ip", "address", "add", "10.9.9.9/32", "dev", "lo")  # for pods to answer to
        yield services


def held(stack: Stack) -> list[str]:
    return sorted(key for key in stack.records() if key.startswith((keys.IPAM_HANDLES, keys.ENDPOINTS)))


def answers(node: Path, address: str) -> bool:
    """Whether a pod can be reached from its node: it refuses a connection to a port where nobody listens."""
    def connect() -> bool:
        try:
            socket.create_connection((address, 1), timeout=3).close()
        except ConnectionRefusedError:
            return True
        return False

    return netns.run(node, connect)


async def test_a_second_add_is_an_error_and_the_pod_keeps_all_it_has(stack: Stack) -> None:
    with namespace("pod") as path:
        pod = Pod("c1", path)
        first = await stack.invoke("ADD", pod)
        assert first.status == 0, first
        before = held(stack), command(path, "ip", "-o", "address"), command(stack.node, "ip", "route")
        assert len(before[0]) == 2
        again = (await stack.invoke("ADD", pod)).error
        assert again["code"] == 101
        assert "eth0" in again["msg"]
        assert (held(stack), command(path, "ip", "-o", "address"), command(stack.node, "ip", "route")) == before
        address = json.loads(first.stdout)["ips"][0]["address"].split("/")[0]
        assert answers(stack.node, address)
        assert (await stack.invoke("DEL", pod)).status == 0
        assert (held(stack), stack.leftovers()) == ([], {})


async def test_an_interface_of_somebody_else_is_left_and_nothing_of_ours(stack: Stack) -> None:
    with namespace("pod") as path:
        command(path, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        error = (await stack.invoke("ADD", Pod("c1", path))).error
        assert "eth0" in error["msg"]
        assert "eth0@other" in command(path, "ip", "-o", "link")
        assert (held(stack), stack.leftovers()) == ([], {})
