"""Annotations of pods and namespaces of an API server: from what is followed, and asked for where that is behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import Exhausted, InvalidArgument, NotFound, Unsupported
from muslin.etcd import Etcd, keys
from services.ipam.annotations import ADDRESSES, NO_IPAM, POOLS
from tests.integration.endpoint import clients as endpoint_clients
from tests.integration.ipam.clients import Client, attachment
from tests.support.apiserver import ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

PODS, NAMESPACES, NODES = "/api/v1/pods", "/api/v1/namespaces", "/api/v1/nodes"
_SOON = 60.0


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@dataclass
class World:
    etcd: EtcdServer
    ipam: Service
    endpoint: Service


@pytest.fixture
def collecting() -> tuple[str, ...]:
    """Options of collection."""
    return ()


QUICKLY = ("--collect-interval", "0.3", "--collect-grace", "1")


@pytest.fixture
async def world(api: ApiServer, tmp_path: Path, collecting: tuple[str, ...]) -> AsyncIterator[World]:
    """An ipam beside an endpoint service that follows the API server, for which nodes are gone quickly."""
    with EtcdServer() as etcd:
        config = api.kubeconfig(tmp_path / "config")
        endpoint = Service("endpoint", "--etcd", etcd.endpoint, "--kubeconfig", str(config), "--node-gone-after", "1")
        ipam = Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.0/16", "--endpoint", endpoint.target,
                       *collecting)
        async with endpoint, ipam:  # ipam finds the other at once, and goes by what it knows from the first
            yield World(etcd, ipam, endpoint)


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with Client(world.ipam.target) as made:
        pool = ipam_pb2.Pool(name="named", cidr="10.1.0.0/24", cool_down_seconds=0)
        await made.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=30)
        yield made


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_SOON):
        while not await holds():  # noqa: ASYNC110  another process does it
            await asyncio.sleep(0.05)


def call(pod: str, uid: str = "", **conf: Any) -> cni_pb2.Call:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"}} | conf
    return cni_pb2.Call(container_id=f"c-{pod}", ifname="eth0", netns="/proc/1/ns/net",
                        config=json.dumps(config).encode(),
                        args=f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME={pod};K8S_POD_UID={uid}")


async def address(client: Client, made: cni_pb2.Call) -> str:
    (ip,) = (await client.add(made)).ips
    return ip.address.partition("/")[0]


async def test_pods_that_were_not_told_of_yet_get_what_they_ask_for(api: ApiServer, client: Client) -> None:
    """No watch tells of pod and namespace, and ADD comes: both are asked for, by uid."""
    await api.watched(PODS)
    api.telling.clear()
    await api.put(NAMESPACES, "prod", metadata={"annotations": {POOLS[4][0]: '["named"]'}})
    made = await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.7"]'}})
    assert await address(client, call("web", made["metadata"]["uid"])) == "10.0.7.7"
    await api.put(PODS, "plain", "prod")
    assert (await address(client, call("plain"))).startswith("10.1.0.")
    with pytest.raises(NotFound, match="pod prod/none is not there, says the API server"):
        await client.add(call("none"))
    assert not [handle for handle in await client.handles() if handle.pod == "none"]


async def test_pods_that_were_told_of_need_no_api_server(api: ApiServer, client: Client) -> None:
    await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.8"]'}})

    async def known() -> bool:
        """Whether both services know the pod: nobody asks for it."""
        asked = len(api.requests)
        assert await address(client, call("web")) == "10.0.7.8"
        await client.delete(call("web"))
        return {path for path, _ in api.requests[asked:]} <= set(api.kinds)

    await until(known)
    asked = len(api.requests)
    await api.put(PODS, "web", "prod", metadata={"annotations": {ADDRESSES[0]: '["10.0.7.9"]'}})
    async with asyncio.timeout(60):
        while await address(client, call("web")) != "10.0.7.9":  # until both services have followed
            await client.delete(call("web"))
    assert {path for path, _ in api.requests[asked:]} <= set(api.kinds)  # no pod was asked for
    await api.down()
    await client.delete(call("web"))
    assert await address(client, call("web")) == "10.0.7.9"


@pytest.mark.parametrize(("annotations", "said"), [
    ({ADDRESSES[0]: '["172.31.0.1"]'}, "address 172.31.0.1 is in no pool; pools are default (10.0.0.0/16), named"),
    ({ADDRESSES[0]: "10.0.0.1"}, f"annotation {ADDRESSES[0]} of pod prod/web is not JSON"),
    ({POOLS[4][1]: '["nowhere"]'}, "there is no pool 'nowhere'; pools are default (10.0.0.0/16); named"),
    ({"muslin.dev/sticky-addresses": "soon"}, "'soon' is not a duration"),
    ({NO_IPAM: '["10.0.0.1"]'}, f"annotation {NO_IPAM} of pod prod/web is not supported"),
])
async def test_a_pod_whose_annotations_can_not_be_is_refused_and_told_so(
        api: ApiServer, client: Client, annotations: dict[str, str], said: str) -> None:
    """By an Event on the pod: ADD again and again makes one of it. Others get their addresses meanwhile."""
    made = await api.put(PODS, "web", "prod", metadata={"annotations": annotations})
    await api.put(PODS, "other", "prod")
    uid = made["metadata"]["uid"]
    for _ in range(3):
        with pytest.raises((InvalidArgument, Unsupported), match=re.escape(said)):
            await client.add(call("web", uid))

    async def told() -> bool:
        return bool(api.events())

    await until(told)
    assert await address(client, call("other"))
    (event,) = api.events()
    assert said in event["message"]
    assert event["reason"] == "NetworkRefused"
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "prod", "name": "web",
                                       "uid": uid}
    assert [handle.pod for handle in await client.handles()] == ["other"]


async def test_that_no_address_is_left_is_told_too(api: ApiServer, client: Client) -> None:
    await api.put(PODS, "web", "prod")
    for name in ("default", "named"):
        await client.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name=name, node_selector="has(none)"), timeout=30)
    with pytest.raises(Exhausted):
        await client.add(call("web"))

    async def told() -> bool:
        return [event["reason"] for event in api.events()] == ["NoAddressLeft"]

    await until(told)


# Nodes


async def assigned(client: Client, world: World, pod: str, number: int, node: str) -> str:
    """What a chain's ADD does here: an address of the pool that is free at once, then the record.

    Again if it was so slow that the address was taken for garbage meanwhile: these tests collect at once.
    """
    request = ipam_pb2.AssignRequest(attachment=attachment(number), node=node, namespace="prod", pod=pod,
                                     ipv4_pools=["named"])
    while True:
        (given,) = (await client.ipam.Assign(request, timeout=30)).handle.addresses
        result = json.dumps({"cniVersion": "0.1.0", "ip4": {"ip": f"{given}/32"}}).encode()
        async with endpoint_clients.Client(world.endpoint.target) as endpoint:
            await endpoint.add(endpoint_clients.call(number, pod, result=result), node)
        if [handle for handle in await client.handles(node) if given in handle.addresses]:
            return given


async def has(client: Client) -> dict[str, tuple[int, int, bool]]:
    """By node its blocks, its addresses, and whether it is drained."""
    answer = await client.ipam.ListNodes(ipam_pb2.ListNodesRequest(), timeout=30)
    return {each.node: (each.blocks, each.addresses, each.draining) for each in answer.nodes}


@pytest.mark.parametrize("collecting", [QUICKLY])
async def test_what_a_deleted_node_had_is_free_again(api: ApiServer, world: World, client: Client) -> None:
    """Addresses, blocks, affinities, and that it was drained; not before its pods are gone, and nothing of others'."""
    for node in ("n1", "n2"):
        await api.put(NODES, node)
    for number, pod in enumerate(("a", "b")):
        await api.put(PODS, pod, "prod")
        await assigned(client, world, pod, number, "n1")
    await api.put(PODS, "c", "prod")
    await assigned(client, world, "c", 2, "n2")
    await client.ipam.DrainNode(ipam_pb2.DrainNodeRequest(node="n1"), timeout=30)
    await api.delete(NODES, "n1")
    await api.delete(PODS, "a", "prod")
    await asyncio.sleep(3)  # more than all the times that are waited for
    assert await has(client) == {"n1": (1, 2, True), "n2": (1, 1, False)}, "a pod is still there"
    await api.delete(PODS, "b", "prod")

    async def gone() -> bool:
        return await has(client) == {"n2": (1, 1, False)}

    await until(gone)
    async with Etcd([world.etcd.endpoint]) as store:
        left = [item.key for item in (await store.range(keys.IPAM)).items if "n1" in item.key]
    assert left == [keys.ipam_node("n1")] or not left, "no affinity; the record of its last claim may stay"

    await api.put(NODES, "n1")
    await api.put(PODS, "d", "prod")
    await assigned(client, world, "d", 3, "n1")
    assert await has(client) == {"n1": (1, 1, False), "n2": (1, 1, False)}


@pytest.mark.parametrize("collecting", [QUICKLY])
async def test_blocks_of_a_node_that_was_deleted_while_nobody_looked_go_too(
        api: ApiServer, world: World, client: Client) -> None:
    """The address manager was not there to see it: it goes by what is there now."""
    for node in ("n1", "n2"):
        await api.put(NODES, node)
    for number, node in enumerate(("n1", "n2")):
        await api.put(PODS, f"p{number}", "prod")
        await assigned(client, world, f"p{number}", number, node)
    assert world.ipam.terminate() == 0
    await api.delete(NODES, "n1")
    await api.delete(PODS, "p0", "prod")
    world.ipam.launch()
    await asyncio.to_thread(world.ipam.wait)

    async def gone() -> bool:
        return await has(client) == {"n2": (1, 1, False)}

    await until(gone)
