"""The whole chain outside Kubernetes: a container on two networks by one interface."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2_grpc
from muslin.api.node.v1 import node_pb2_grpc
from muslin.errors import FailedPrecondition, InvalidArgument
from muslin.etcd import keys
from tests.support.chain import invoke
from tests.support.netns import command, namespace
from tests.support.stack import SHIM, Stack, running

pytestmark = pytest.mark.root


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as services:
        yield services


async def test_the_second_network_shares_interface_and_address(stack: Stack) -> None:
    """It is wired once, and stays until the first network's DEL."""
    with namespace("container") as path:
        environment = {"CNI_CONTAINERID": "c1", "CNI_NETNS": str(path), "CNI_IFNAME": "eth0",
                       "CNI_PATH": str(SHIM.parent)}

        async def run(verb: str, network: str, **more: Any) -> dict[str, Any]:
            config = stack.configuration(name=network, policy={}, **more)
            done = await invoke(SHIM, verb, config, environment, timeout=60)
            assert done.status == 0, done
            return dict(json.loads(done.stdout)) if done.stdout else {}

        async def check(network: str, previous: dict[str, Any]) -> None:
            config = stack.configuration(name=network, policy={}, prevResult=previous)
            asked = cni_pb2.CheckRequest(call=cni_pb2.Call(container_id="c1", ifname="eth0", netns=str(path),
                                                           config=json.dumps(config).encode()))
            async with rpc.channel(f"unix:{stack.run}/muslin.sock") as channel:
                for plugin in (endpoint_pb2_grpc.PluginStub(channel), node_pb2_grpc.PluginStub(channel)):
                    with rpc.translated("check"):
                        await plugin.Check(asked, timeout=10)

        first = await run("ADD", "blue")
        wired = command(path, "ip", "-4", "-o", "address"), command(stack.node, "ip", "-o", "link")
        second = await run("ADD", "red")
        assert (command(path, "ip", "-4", "-o", "address"), command(stack.node, "ip", "-o", "link")) == wired
        assert second["ips"] == first["ips"]
        assert [i["name"] for i in second["interfaces"]] == [i["name"] for i in first["interfaces"]]
        record, = (value for key, value in stack.records().items() if key.startswith(keys.ENDPOINTS))
        assert record["profiles"] == ["blue", "red"]
        await check("blue", first)
        await check("red", second)
        with pytest.raises((FailedPrecondition, InvalidArgument), match="host interface"):
            await check("red", {**second, "interfaces": second["interfaces"][1:]})
        await run("DEL", "red", prevResult=second)
        assert (command(path, "ip", "-4", "-o", "address"), command(stack.node, "ip", "-o", "link")) == wired
        await check("blue", first)
        await run("DEL", "blue", prevResult=first)
        held = [key for key in stack.records() if key.startswith((keys.ENDPOINTS, keys.ENDPOINT_INTERFACES,
                                                                  keys.IPAM_HANDLES))]
        assert (held, stack.leftovers()) == ([], {})
