"""Who gets in over TCP, as whom, and what each may do: real services, real TLS, an etcd that knows users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from tests.integration.rpc.secure import PATIENCE, Secure, secure
from tests.support.service import Service

CONFIG = json.dumps({"cniVersion": "1.0.0", "name": "net", "type": "muslin", "ipam": {"type": "muslin-ipam"}}).encode()


@dataclass
class World:
    secure: Secure
    endpoint: Service
    ipam: Service
    at_endpoint: str
    at_ipam: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with secure(tmp_path_factory.mktemp("secure")) as running:
        endpoint, at_endpoint = running.service("endpoint")
        ipam, at_ipam = running.service("ipam", f"--endpoint={at_endpoint}")
        yield World(running, endpoint, ipam, at_endpoint, at_ipam)


def call(container: str = "c1") -> cni_pb2.Call:
    return cni_pb2.Call(container_id=container, ifname="eth0", netns="/var/run/netns/x", config=CONFIG)


async def test_a_node_is_given_an_address_for_itself(world: World) -> None:
    """From the shim's view nothing differs; the node's name is the certificate's."""
    async with world.secure.channel(world.at_ipam, "n1") as channel:
        await ipam_pb2_grpc.PluginStub(channel).Add(cni_pb2.AddRequest(call=call()), timeout=PATIENCE)
    async with world.secure.channel(world.at_ipam, "operator") as channel:
        answer = await ipam_pb2_grpc.IpamStub(channel).ListHandles(ipam_pb2.ListHandlesRequest(), timeout=PATIENCE)
    assert [handle.node for handle in answer.handles if handle.attachment.container_id == "c1"] == ["n1"]
