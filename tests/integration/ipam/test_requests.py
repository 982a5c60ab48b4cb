"""What pods, namespaces, configurations and runtimes ask for, with the real endpoint service beside the real ipam."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.errors import AlreadyExists, InvalidArgument, MuslinError, Unsupported
from muslin.etcd import Etcd
from services.ipam.annotations import ADDRESSES, NO_IPAM, POOLS, STICKY
from services.ipam.inventory import PATIENCE
from tests.integration.endpoint.clients import Client as Endpoints
from tests.integration.ipam.clients import Client
from tests.support import ipam_invariants
from tests.support.etcd import EtcdServer
from tests.support.service import Service

NUMBERS = itertools.count()

GOLD, EAST = "tier == 'gold'", "zone == 'east'"


@dataclass
class World:
    """The services, and shorthands for what is asked of them."""

    ipam: Client
    endpoints: Endpoints
    endpoint: Service
    service: Service

    async def noted(self, name: str, notes: dict[str, str], uid: str = "") -> None:
        """Tell of a pod and its annotations."""
        await self.endpoints.apply(endpoint_pb2.Pod(namespace="iron", name=name, uid=uid, annotations=notes))

    async def add(self, pod: str, namespace: str = "iron", *, container: str = "", node: str = "n1", uid: str = "",
                  args: str = "", **conf: Any) -> list[str]:
        answer = await self.ipam.add(call(pod, namespace, container, uid, args, conf), muslin_node=node)
        return [ip.address.partition("/")[0] for ip in answer.ips]

    async def delete(self, pod: str, namespace: str = "iron", *, container: str = "") -> None:
        await self.ipam.delete(call(pod, namespace, container))

    async def held(self) -> int:
        return len(await self.ipam.handles())


def call(pod: str, namespace: str, container: str = "", uid: str = "", args: str = "",
         conf: dict[str, Any] | None = None) -> cni_pb2.Call:
    config = {"cniVersion": "1.0.0", "name": "net", "type": "muslin", "policy": {"type": "k8s"}} | (conf or {})
    names = f"K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid};{args}"
    return cni_pb2.Call(container_id=container or f"c-{namespace}-{pod}", ifname="eth0", netns="/proc/1/ns/net",
                        args=names, config=json.dumps(config).encode())


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(etcd: EtcdServer) -> Iterator[Service]:
    with Service("endpoint", "--etcd", etcd.endpoint) as process:
        yield process


@pytest.fixture(scope="module")
def service(etcd: EtcdServer, endpoint: Service) -> Iterator[Service]:
    with Service("ipam", "--etcd", etcd.endpoint, "--pool", "10.0.0.0/16", "--endpoint", endpoint.target) as process:
        asyncio.run(_prepare(process, endpoint))
        yield process


async def _prepare(service: Service, endpoint: Service) -> None:
    """Pools of all sorts, two namespaces, two nodes."""
    async with Client(service.target) as client, Endpoints(endpoint.target) as endpoints:
        for name, cidr, fields in (
                ("named", "10.1.0.0/24", {}), ("gold", "10.2.0.0/24", {"namespace_selector": GOLD}),
                ("east", "10.3.0.0/24", {"node_selector": EAST}), ("off", "10.4.0.0/24", {"disabled": True}),
                ("six", "fd00::/112", {})):
            pool = ipam_pb2.Pool(name=name, cidr=cidr, **fields)
            await client.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)
        await endpoints.apply_namespace("gold", labels={"tier": "gold"}, annotations={POOLS[4][0]: '["gold"]'})
        await endpoints.apply_namespace("iron")
        await endpoints.apply_node("n1")
        await endpoints.apply_node("e1", labels={"zone": "east"})
        await endpoints.apply(endpoint_pb2.Pod(namespace="iron", name="first"))


@pytest.fixture
async def world(etcd: EtcdServer, service: Service, endpoint: Service) -> AsyncIterator[World]:
    async with Client(service.target) as client, Endpoints(endpoint.target) as endpoints:
        yield World(client, endpoints, endpoint, service)
    async with Etcd([etcd.endpoint]) as store:
        await ipam_invariants.check(store)


async def test_a_pods_annotations_are_honoured_at_once(world: World) -> None:
    """Also when the pod was told of only just before: the next thing that happens to it is its ADD."""
    for number in range(20):
        await world.noted(f"quick{number}", {ADDRESSES[number % 2]: f'["10.0.200.{number}"]'})
        assert await world.add(f"quick{number}") == [f"10.0.200.{number}"]


async def test_of_two_pods_of_one_name_the_runtimes_counts(world: World) -> None:
    """The new pod of a StatefulSet is told of while the old one is still known, or a moment after its ADD began."""
    await world.noted("db", {ADDRESSES[1]: '["10.0.201.1"]'}, "old")
    assert await world.add("db", container="db1", uid="old") == ["10.0.201.1"]
    await world.noted("db", {ADDRESSES[1]: '["10.0.201.2"]'}, "new")
    assert await world.add("db", container="db2", uid="new") == ["10.0.201.2"]


async def test_pools_by_name_and_range(world: World) -> None:
    await world.noted("a", {POOLS[4][0]: '["10.1.0.0/24"]'})
    await world.noted("b", {POOLS[4][1]: '["named"]'})
    for pod in "ab":
        address, = await world.add(pod)
        assert address.startswith("10.1.0."), pod
    address, = await world.add("c", ipam={"ipv4_pools": ["named"]})
    assert address.startswith("10.1.0.")


async def test_a_namespace_selects_its_pool(world: World) -> None:
    """By its label it may use the pool, by its annotation it wants to; another namespace can not, even if it asks."""
    address, = await world.add("one", "gold")
    assert address.startswith("10.2.0.")
    await world.noted("envious", {POOLS[4][0]: '["gold"]'})
    before = await world.held()
    with pytest.raises(InvalidArgument, match="of pod iron/envious: pool gold does not serve namespace iron"):
        await world.add("envious")
    assert await world.held() == before
    await world.endpoints.apply_namespace("iron", labels={"tier": "gold"})
    address, = await _eventually(world, "envious")
    assert address.startswith("10.2.0.")
    await world.endpoints.apply_namespace("iron")


async def _eventually(world: World, pod: str) -> list[str]:
    """The inventory follows the endpoint service within moments, and ADD does not say when it has."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await world.add(pod)
            except InvalidArgument:
                await asyncio.sleep(0.02)


async def test_a_node_selects_its_pool(world: World) -> None:
    await world.noted("zonal", {POOLS[4][0]: '["east"]'})
    with pytest.raises(InvalidArgument, match="pool east does not serve node n1 "):
        await world.add("zonal", node="n1")
    address, = await world.add("zonal", node="e1")
    assert address.startswith("10.3.0.")


async def test_a_sticky_address_comes_back(world: World) -> None:
    """After DEL, for a new sandbox on another node; meanwhile nobody else gets it, however they ask."""
    await world.noted("db-0", {STICKY: "10m"})
    address = await world.add("db-0", container="old")
    await world.delete("db-0", container="old")
    await world.noted("thief", {ADDRESSES[0]: json.dumps(address)})
    kept = f"{address[0]} is taken: net/old/eth0 holds it, kept for the return of pod iron/db-0"
    with pytest.raises(AlreadyExists, match=kept):
        await world.add("thief")
    assert await world.add("db-0", container="new", node="e1") == address
    await world.delete("db-0", container="old")  # late, as runtimes are
    assert await world.add("db-0", container="new", node="e1") == address
    await world.noted("plain", {})
    loose = await world.add("plain", container="p1")
    await world.delete("plain", container="p1")
    assert await world.add("plain", container="p2") != loose


async def test_an_address_that_is_taken_says_by_whom(world: World) -> None:
    address, = await world.add("owner")
    before = await world.held()
    for ask in ({"args": f"IP={address}"}, {"runtimeConfig": {"ips": [f"{address}/24"]}}):
        with pytest.raises(AlreadyExists, match=f"address {address} is taken: net/c-iron-owner/eth0 holds it"):
            await world.add("late", **ask)
    assert await world.held() == before


async def test_the_runtime_and_the_arguments_ask_for_addresses(world: World) -> None:
    assert await world.add("r", runtimeConfig={"ips": ["10.0.202.1/24"]}) == ["10.0.202.1"]
    assert await world.add("s", args="IP=10.0.202.2;") == ["10.0.202.2"]
    await world.noted("t", {ADDRESSES[0]: '["10.0.202.3"]'})
    assert await world.add("t", args="IP=10.0.202.3;", runtimeConfig={"ips": ["10.0.202.3"]}) == ["10.0.202.3"]


async def test_both_families(world: World) -> None:
    """Strings or booleans; one of each or none; a specific one and any other."""
    first = await world.add("dual", ipam={"assign_ipv6": "true"})
    assert [":" in address for address in first] == [False, True]
    only = await world.add("only", ipam={"assign_ipv4": False, "assign_ipv6": True, "ipv6_pools": ["fd00::/112"]})
    assert [":" in address for address in only] == [True]
    await world.noted("mixed", {ADDRESSES[1]: '["fd00::1234"]'})
    mixed = await world.add("mixed", ipam={"assign_ipv6": True})
    assert (mixed[1], mixed[0].startswith("10.0.")) == ("fd00::1234", True)
    before = await world.held()
    await world.noted("half", {ADDRESSES[0]: '["10.0.203.1", "fd00::1234"]'})
    with pytest.raises(AlreadyExists, match="address fd00::1234 is taken"):
        await world.add("half", ipam={"assign_ipv6": True})
    assert await world.held() == before


@pytest.mark.parametrize(("notes", "conf", "error", "message"), [
    ({POOLS[4][0]: "named"}, {}, InvalidArgument, "is not JSON"),
    ({POOLS[4][0]: '["off"]'}, {}, InvalidArgument, r"pool off \(10.4.0.0/24\) is disabled"),
    ({POOLS[4][0]: '["six"]'}, {}, InvalidArgument, r"pool six \(fd00::/112\) has IPv6 addresses"),
    ({POOLS[4][0]: '["absent"]'}, {}, InvalidArgument, "there is no pool 'absent'; pools are default"),
    ({ADDRESSES[0]: '["10.0.1.1", "10.0.1.2"]'}, {}, InvalidArgument, "asks for 10.0.1.1 and 10.0.1.2"),
    ({ADDRESSES[0]: '["172.16.0.1"]'}, {}, InvalidArgument, "172.16.0.1 is in no pool"),
    ({ADDRESSES[0]: '["10.4.0.1"]'}, {}, InvalidArgument, "10.4.0.1 is in pool off .* disabled"),
    ({ADDRESSES[0]: '["fd00::1"]'}, {}, InvalidArgument, "ipam.assign_ipv6 is false"),
    ({STICKY: "soon"}, {}, InvalidArgument, "'soon' is not a duration"),
    ({NO_IPAM: '["10.0.1.1"]'}, {}, Unsupported, r"ipAddrsNoIpam of pod iron/wrong-[0-9]+ is not"),
    ({}, {"ipam": {"assign_ipv4": "false"}}, InvalidArgument, "are both false"),
    ({}, {"ipam": {"ipv4_pools": ["east"]}}, InvalidArgument, "ipam.ipv4_pools: pool east does not serve node n1"),
])
async def test_of_a_mistake_nothing_comes_but_its_name(world: World, notes: dict[str, str], conf: dict[str, Any],
                                                       error: type[MuslinError], message: str) -> None:
    name = f"wrong-{next(NUMBERS)}"
    await world.noted(name, notes)
    before = await world.held()
    with pytest.raises(error, match=message):
        await world.add(name, **conf)
    assert await world.held() == before


async def test_asking_again_is_answered_as_before(world: World) -> None:
    """Whatever has changed since: the pool is disabled now. For another attachment that counts."""
    pool = ipam_pb2.Pool(name="brief", cidr="10.5.0.0/24")
    await world.ipam.ipam.CreatePool(ipam_pb2.CreatePoolRequest(pool=pool), timeout=10)
    first = await world.add("again", ipam={"ipv4_pools": ["brief"]})
    await world.ipam.ipam.UpdatePool(ipam_pb2.UpdatePoolRequest(name="brief", disabled=True), timeout=10)
    assert await world.add("again", ipam={"ipv4_pools": ["brief"]}) == first
    with pytest.raises(InvalidArgument, match=r"pool brief .* is disabled"):
        await world.add("another", ipam={"ipv4_pools": ["brief"]})


async def test_the_api_asks_likewise(world: World) -> None:
    async def assign(number: int, **fields: Any) -> list[str]:
        whose = cni_pb2.Attachment(network="api", container_id=f"c{number}", ifname="eth0")
        request = ipam_pb2.AssignRequest(attachment=whose, node="n1", namespace="iron", **fields)
        with rpc.translated("assign"):
            return list((await world.ipam.ipam.Assign(request, timeout=10)).handle.addresses)

    address, = await assign(1, ipv4_pools=["named"])
    assert address.startswith("10.1.0.")
    assert await assign(2, addresses=["10.0.204.1"]) == ["10.0.204.1"]
    assert len(await assign(3, families=[4, 6])) == 2
    with pytest.raises(InvalidArgument, match="ipv4_pools: pool gold does not serve namespace iron"):
        await assign(4, ipv4_pools=["gold"])
    assert await assign(1, ipv4_pools=["gold"]) == [address], "asking again is answered as before"


async def test_addresses_are_given_while_the_endpoint_service_is_away(world: World) -> None:
    """By what is known of the pod, without waiting; the log says so. When it is back, what it says counts."""
    await world.noted("known", {ADDRESSES[0]: '["10.0.205.1"]'})
    assert await world.add("known") == ["10.0.205.1"]
    await world.delete("known")
    await asyncio.to_thread(world.endpoint.kill)
    try:
        await _until(lambda: "inventory interrupted" in world.service.tail())
        began = time.monotonic()
        assert await world.add("known", container="known2") == ["10.0.205.1"]
        assert len(await world.add("unheard-of")) == 1
        assert time.monotonic() - began < PATIENCE, "nothing was waited for"
        assert "annotations may be old: pod=iron/known" in world.service.tail()
        assert "annotations of the pod are not known: pod=iron/unheard-of" in world.service.tail()
    finally:
        await asyncio.to_thread(world.endpoint.start)
    async with Endpoints(world.endpoint.target) as endpoints:
        pod = endpoint_pb2.Pod(namespace="iron", name="later", annotations={ADDRESSES[0]: '["10.0.205.2"]'})
        await endpoints.apply(pod)

        async def current() -> bool:
            whose = f"later-{next(NUMBERS)}"
            given = await world.add("later", container=whose)
            await world.delete("later", container=whose)
            return given == ["10.0.205.2"]

        async with asyncio.timeout(15):
            while not await current():  # noqa: ASYNC110  ADD does not say when the inventory is followed again
                await asyncio.sleep(0.05)


async def test_addresses_are_given_while_the_endpoint_service_is_frozen(world: World) -> None:
    """It answers nothing and closes nothing: a pod that is not known is waited for a moment and no longer."""
    await world.noted("thawed", {ADDRESSES[0]: '["10.0.206.1"]'})
    assert await world.add("thawed") == ["10.0.206.1"]
    os.kill(world.endpoint.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await world.add("thawed") == ["10.0.206.1"]
        assert len(await world.add("never-heard-of")) == 1
        assert time.monotonic() - began < PATIENCE + 5, "a busy machine's margin; its own deadline would be 10 s"
    finally:
        os.kill(world.endpoint.pid, signal.SIGCONT)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110  a log has no event
            await asyncio.sleep(0.02)
