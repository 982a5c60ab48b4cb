"""Nodes of an API server: their objects say how their network is, and what deleted ones have left goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import InvalidArgument, NotFound
from muslin.etcd import Etcd, keys
from muslin.rpc import translated
from muslin.rpc.identity import NODE_METADATA
from tests.integration.endpoint.clients import CONF, Client, call
from tests.support.apiserver import ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

PODS, NODES = "/api/v1/pods", "/api/v1/nodes"
TAINTS = [{"key": "a", "effect": "NoSchedule"}, {"key": "muslin.dev/not-ready", "effect": "NoSchedule"}]
_SOON = 60.0


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


@pytest.fixture
async def stored() -> AsyncIterator[EtcdServer]:
    with EtcdServer() as etcd:
        yield etcd


@pytest.fixture
async def service(api: ApiServer, stored: EtcdServer, tmp_path: Path) -> AsyncIterator[Service]:
    """With times so short that a test can wait for them."""
    config = str(api.kubeconfig(tmp_path / "config"))
    async with Service("endpoint", "--etcd", stored.endpoint, "--kubeconfig", config, "--node-down-after", "1",
                       "--node-gone-after", "1") as made:
        yield made


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with Client(service.target) as made:
        yield made


async def announce(client: Client, node: str, ttl: int = 3600, trouble: str = "") -> None:
    request = endpoint_pb2.AnnounceRequest(host=endpoint_pb2.Host(
        node=node, addresses=["192.0.2.1"], trouble=trouble, version="1.2"), ttl_seconds=ttl)
    await client.endpoints.Announce(request, timeout=30, metadata=((NODE_METADATA, node),))


def conditions(api: ApiServer, node: str) -> dict[str, tuple[str, str]]:
    said = api.one(NODES, node).get("status", {}).get("conditions", [])
    return {each["type"]: (each["status"], each["reason"]) for each in said}


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON):
        while not holds():  # noqa: ASYNC110  another process does it
            await asyncio.sleep(0.02)


async def persistently(asked: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_SOON):
        while not await asked():  # noqa: ASYNC110  another process does it
            await asyncio.sleep(0.02)


async def declared(client: Client, node: str) -> bool:
    try:
        await client.node(node)
    except NotFound:
        return False
    return True


async def there(client: Client, number: int) -> bool:
    try:
        await client.get(number)
    except NotFound:
        return False
    return True


async def test_a_node_whose_daemon_is_ready_says_so_and_loses_the_taint(api: ApiServer, client: Client) -> None:
    """What others say of it, and other taints, stay; a node that never announced itself is none of ours."""
    kubelet = {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]}
    await api.put(NODES, "n1", spec={"taints": TAINTS}, status=kubelet)
    await api.put(NODES, "other", spec={"taints": TAINTS}, status=kubelet)
    await announce(client, "n1")
    up = {"Ready": ("True", "KubeletReady"), "NetworkUnavailable": ("False", "MuslinIsUp")}
    await until(lambda: conditions(api, "n1") == up and api.one(NODES, "n1")["spec"]["taints"] == TAINTS[:1])
    assert [path for _, path, _ in api.writes if "other" in path] == []
    count = len(api.writes)
    await api.put(NODES, "n1", spec=api.one(NODES, "n1")["spec"], status=api.one(NODES, "n1")["status"])
    await announce(client, "n2")
    await api.put(NODES, "n2")
    await until(lambda: "NetworkUnavailable" in conditions(api, "n2"))
    assert len(api.writes) == count + 1, "what is said already is not written again"


async def test_a_node_that_can_not_serve_for_long_says_so(api: ApiServer, client: Client) -> None:
    await api.put(NODES, "n1")
    await announce(client, "n1")
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("False", "MuslinIsUp")})
    await announce(client, "n1", trouble="kernel: no nf_tables")
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("True", "MuslinIsNotReady")})
    assert "kernel: no nf_tables" in api.one(NODES, "n1")["status"]["conditions"][0]["message"]
    await announce(client, "n1")
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("False", "MuslinIsUp")})
    await announce(client, "n1", ttl=2)
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("True", "MuslinIsDown")})
    await announce(client, "n1")
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("False", "MuslinIsUp")})


async def test_a_taint_that_has_moved_meanwhile_is_found_again(api: ApiServer, client: Client) -> None:
    """The first patch meets another order of taints than was seen: it changes nothing, and the next one is right."""
    await api.put(NODES, "n1", spec={"taints": TAINTS})
    await persistently(lambda: declared(client, "n1"))
    api.telling.clear()
    await api.put(NODES, "n1", spec={"taints": TAINTS[::-1]})
    await announce(client, "n1")
    await until(lambda: any(method == "PATCH" and path == f"{NODES}/n1" for method, path, _ in api.writes))
    assert api.one(NODES, "n1")["spec"]["taints"] == TAINTS[::-1]
    api.telling.set()
    await until(lambda: api.one(NODES, "n1")["spec"]["taints"] == TAINTS[:1])


async def test_an_api_server_that_may_not_be_written_is_followed_all_the_same(
        api: ApiServer, service: Service, client: Client) -> None:
    api.read_only = True
    await api.put(NODES, "n1", spec={"taints": TAINTS})
    await announce(client, "n1")
    await until(lambda: len(api.writes) >= 2)
    await api.put(PODS, "web", "prod")

    async def known() -> bool:
        return [pod.name for pod in await client.pods()] == ["web"]

    await persistently(known)
    log = service.tail(1_000_000)
    assert log.count("the condition of nodes is not written") == 1
    assert log.count("a role must allow patch of nodes/status") == 1
    assert log.count("a role must allow patch of nodes\"") + log.count("a role must allow patch of nodes\n") == 1


# What deleted nodes leave


async def hosts(etcd: EtcdServer) -> set[str]:
    async with Etcd([etcd.endpoint]) as store:
        return {keys.parse_host(item.key) for item in (await store.range(keys.HOSTS)).items}


async def test_what_a_deleted_node_has_left_goes_when_nothing_of_it_lives(
        api: ApiServer, client: Client, stored: EtcdServer) -> None:
    """As long as its daemon is heard of, or a pod of it is there, it stays; and what is on others stays."""
    for name in ("n1", "n2"):
        await api.put(NODES, name)
        await announce(client, name, ttl=3600 if name == "n2" else 5)
    pod = await api.put(PODS, "web", "prod")
    uid = pod["metadata"]["uid"]
    args = f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID={uid}"
    await client.add(call(1, args=args), "n1")
    await client.add(call(2, args=args), "n2")
    await api.delete(NODES, "n1")

    async def undeclared() -> bool:
        return not await declared(client, "n1")

    async def unheard() -> bool:
        async with Etcd([stored.endpoint]) as store:
            return await store.get(keys.presence("n1")) is None

    await persistently(undeclared)
    await persistently(unheard)
    await asyncio.sleep(3)  # more than the time after which it would go, if its pod were not there
    assert await there(client, 1)
    assert await hosts(stored) == {"n1", "n2"}
    await api.delete(PODS, "web", "prod")

    async def gone() -> bool:
        return not await there(client, 1) and await hosts(stored) == {"n2"}

    await persistently(gone)
    assert await there(client, 2)
    await announce(client, "n1")
    await api.put(NODES, "n1")
    await until(lambda: conditions(api, "n1") == {"NetworkUnavailable": ("False", "MuslinIsUp")})
    assert await hosts(stored) == {"n1", "n2"}


async def test_a_node_whose_object_is_missing_and_whose_daemon_works_keeps_all(
        api: ApiServer, client: Client, stored: EtcdServer) -> None:
    """Somebody deleted its Node, or the daemon goes by another name than the API server's."""
    await api.put(NODES, "n2")
    await announce(client, "n1")
    await api.put(PODS, "web", "prod")
    await client.add(call(1), "n1")
    await api.delete(PODS, "web", "prod")
    await api.put(NODES, "marker")

    async def told() -> bool:
        return await declared(client, "marker") and not await client.pods()

    await persistently(told)
    await asyncio.sleep(3)  # more than the time after which it would go
    assert await there(client, 1)
    assert await hosts(stored) == {"n1"}


# Pods


async def test_a_pod_whose_wishes_can_not_be_is_told_so(api: ApiServer, client: Client) -> None:
    """The refusal is that of ADD, and counted: the runtime comes again and again."""
    made = await api.put(PODS, "web", "prod", metadata={"annotations": {"muslin.dev/hwAddr": "nonsense"}})
    uid = made["metadata"]["uid"]
    args = f"K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID={uid}"
    with pytest.raises(InvalidArgument, match="'nonsense' is not a MAC address") as caught:
        await client.add(call(1, args=args))
    await until(lambda: bool(api.events()))
    (event,) = api.events()
    assert (event["reason"], event["type"], event["involvedObject"]["uid"]) == ("NetworkRefused", "Warning", uid)
    assert event["message"] in str(caught.value)
    assert not await there(client, 1)


async def test_reports_of_other_services_become_events(api: ApiServer, client: Client) -> None:
    made = await api.put(PODS, "web", "prod")

    async def report(**fields: Any) -> None:
        request = endpoint_pb2.ReportPodRequest(**{
            "namespace": "prod", "name": "web", "uid": made["metadata"]["uid"], "reason": "NetworkRefused",
            "message": "because", **fields})
        with translated("report"):
            await client.endpoints.ReportPod(request, timeout=30)

    await report()
    await until(lambda: [event["message"] for event in api.events()] == ["because"])
    for wrong, named in (({"reason": "two words"}, "reason"), ({"message": ""}, "message"), ({"name": "A B"}, "name")):
        with pytest.raises(InvalidArgument, match=named):
            await report(**wrong)


async def test_without_an_api_server_reports_are_taken_and_nothing_follows(etcd: EtcdServer) -> None:
    """The module's other service, which follows none."""
    with Service("endpoint", "--etcd", etcd.endpoint) as plain:
        async with Client(plain.target) as client:
            await client.endpoints.ReportPod(endpoint_pb2.ReportPodRequest(
                namespace="prod", name="web", uid="u", reason="NetworkRefused", message="x"), timeout=30)
            with pytest.raises(InvalidArgument):
                await client.add(call(1, config={**CONF, "runtimeConfig": {"mac": "x"}}))
