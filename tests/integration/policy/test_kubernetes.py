"""The policy service follows an API server: what that has is in force, whatever happens on the way."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from muslin.api.policy.v1 import policy_pb2
from tests.integration.policy.clients import Client
from tests.integration.policy.endpoints import EndpointServer
from tests.support.apiserver import CALICO, ApiServer
from tests.support.etcd import EtcdServer
from tests.support.service import Service

POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
NAMESPACES = "/api/v1/namespaces"
ACCOUNTS = "/api/v1/serviceaccounts"
WATCHED = (POLICIES, NAMESPACES, ACCOUNTS)
DENY = {"podSelector": {}, "policyTypes": ["Ingress"]}
_SOON = 60.0


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        yield server


def process(etcd: EtcdServer, endpoints: EndpointServer, config: Path) -> Service:
    return Service("policy", "--etcd", etcd.endpoint, "--endpoint", endpoints.target, "--kubeconfig", str(config))


@pytest.fixture
async def service(etcd: EtcdServer, endpoint_server: EndpointServer, api: ApiServer,
                  tmp_path: Path) -> AsyncIterator[Service]:
    async with process(etcd, endpoint_server, api.kubeconfig(tmp_path / "config")) as made:
        yield made


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[tuple[Service, Client]]:
    """A process of the test's own, and a client of it."""
    async with service, Client(service.target) as client:
        yield service, client


async def said(service: Service, text: str) -> str:
    """The log, once it says something."""
    async with asyncio.timeout(_SOON):
        while text not in (log := service.tail(1_000_000)):  # noqa: ASYNC110  another process writes it
            await asyncio.sleep(0.05)
    return log


async def objects(client: Client) -> dict[str, policy_pb2.Object]:
    answer = await client.policies.List(policy_pb2.ListRequest(), timeout=30)
    return {f"{item.kind}/{item.namespace}/{item.name}": item for item in answer.objects}


async def until(client: Client, holds: Callable[[dict[str, policy_pb2.Object]], bool]) -> dict[str, policy_pb2.Object]:
    """The objects, once something holds for them."""
    async with asyncio.timeout(_SOON):
        while not holds(found := await objects(client)):  # noqa: ASYNC110  another process has them
            await asyncio.sleep(0.02)
    return found


def hand_applied(name: str, **spec: Any) -> policy_pb2.Object:
    manifest = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
                "spec": spec or DENY}
    return policy_pb2.Object(kind="NetworkPolicy", namespace="shop", name=name, origin="by hand",
                             manifest=json.dumps(manifest).encode())


async def test_what_the_api_server_has_is_stored_and_followed(api: ApiServer, client: Client) -> None:
    """Made, changed and deleted; with the labels that matter, and without what changes all the time."""
    await api.put(NAMESPACES, "shop", metadata={"labels": {"team": "a"}, "annotations": {"long": "x" * 1000}})
    await api.put(POLICIES, "deny", "shop", spec=DENY)
    await api.put(ACCOUNTS, "robot", "shop", metadata={"labels": {"role": "r"}}, secrets=[{"name": "s"}])
    found = await until(client, lambda there: len(there) == 3)
    assert set(found) == {"Namespace//shop", "NetworkPolicy/shop/deny", "ServiceAccount/shop/robot"}
    assert {item.origin for item in found.values()} == {"Kubernetes"}
    assert json.loads(found["Namespace//shop"].manifest) == {
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}}
    assert json.loads(found["NetworkPolicy/shop/deny"].manifest)["spec"] == DENY

    await api.put(NAMESPACES, "shop", metadata={"labels": {"team": "b"}})
    await api.delete(POLICIES, "deny", "shop")
    await until(client, lambda there: "NetworkPolicy/shop/deny" not in there and b'"b"' in
                there["Namespace//shop"].manifest)


async def test_what_vanished_meanwhile_is_deleted_and_what_is_applied_by_hand_stays(
        api: ApiServer, service: Service, client: Client) -> None:
    """While the process is down objects go without a trace: no watch will ever tell."""
    await api.put(POLICIES, "stays", "shop", spec=DENY)
    await api.put(POLICIES, "goes", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 2)
    await client.policies.Apply(policy_pb2.ApplyRequest(objects=[hand_applied("mine")]), timeout=30)
    assert service.terminate() == 0
    await api.delete(POLICIES, "goes", "shop")
    await api.forget()
    service.launch()
    await asyncio.to_thread(service.wait)
    found = await until(client, lambda there: "NetworkPolicy/shop/goes" not in there)
    assert set(found) == {"NetworkPolicy/shop/stays", "NetworkPolicy/shop/mine"}


async def test_a_forgotten_history_is_made_up_for_by_a_list(api: ApiServer, client: Client) -> None:
    await api.put(POLICIES, "old", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 1)
    for path in WATCHED:
        await api.watched(path)
    await api.down()
    await api.delete(POLICIES, "old", "shop")
    await api.put(POLICIES, "new", "shop", spec=DENY)
    await api.forget()
    await api.up()
    assert set(await until(client, lambda there: "NetworkPolicy/shop/old" not in there)) == {"NetworkPolicy/shop/new"}


async def test_an_api_server_that_is_away_changes_nothing(api: ApiServer, service: Service, client: Client) -> None:
    """What is stored is in force, after a restart as well, and the service is ready."""
    await api.put(POLICIES, "deny", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 1)
    await api.down()
    assert service.terminate() == 0
    service.launch()
    await asyncio.to_thread(service.wait)
    assert set(await objects(client)) == {"NetworkPolicy/shop/deny"}
    await client.policies.Apply(policy_pb2.ApplyRequest(objects=[hand_applied("mine")]), timeout=30)
    await api.up()
    await api.delete(POLICIES, "deny", "shop")
    assert set(await until(client, lambda there: "NetworkPolicy/shop/deny" not in there)) == {"NetworkPolicy/shop/mine"}


async def test_a_token_that_expires_halfway_changes_nothing_until_there_is_another(
        api: ApiServer, etcd: EtcdServer, endpoint_server: EndpointServer, tmp_path: Path) -> None:
    """It is read anew from its file; meanwhile what is stored is in force, and the log says what is wrong, not it."""
    (tmp_path / "token").write_text("the-first-one\n")
    api.tokens = {"the-first-one"}
    config = api.kubeconfig(tmp_path / "config", tokenFile="token")
    async with running(process(etcd, endpoint_server, config)) as (service, client):
        await api.put(POLICIES, "deny", "shop", spec=DENY)
        await until(client, lambda there: len(there) == 1)
        api.tokens = {"the-second-one"}
        await api.end_watches()
        await api.delete(POLICIES, "deny", "shop")
        await api.put(POLICIES, "other", "shop", spec=DENY)
        log = await said(service, f"the credentials of kubeconfig {config} have expired or are not this server's")
        assert set(await objects(client)) == {"NetworkPolicy/shop/deny"}
        (tmp_path / "token").write_text("the-second-one\n")
        await until(client, lambda there: set(there) == {"NetworkPolicy/shop/other"})
        assert "the-first-one" not in log
        assert "Traceback" not in service.tail(1_000_000)


async def test_what_somebody_else_does_to_a_followed_object_is_undone(api: ApiServer, client: Client) -> None:
    await api.put(POLICIES, "deny", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 1)
    ref = policy_pb2.ObjectRef(kind="NetworkPolicy", namespace="shop", name="deny")
    await client.policies.Delete(policy_pb2.DeleteRequest(objects=[ref]), timeout=30)
    await until(client, lambda there: len(there) == 1)
    wide = hand_applied("deny", podSelector={}, ingress=[{}])
    await client.policies.Apply(policy_pb2.ApplyRequest(objects=[wide]), timeout=30)
    found = await until(client, lambda there: there["NetworkPolicy/shop/deny"].origin == "Kubernetes")
    assert json.loads(found["NetworkPolicy/shop/deny"].manifest)["spec"] == DENY


async def test_of_a_policy_that_is_not_understood_the_rest_closes(api: ApiServer, client: Client) -> None:
    """Of a later version of the API: the rule goes, the pods are isolated, and a condition says so."""
    await api.put(POLICIES, "later", "shop", spec={
        "podSelector": {}, "ingress": [{"from": [{"clusterSelector": {}}]}, {"ports": [{"port": 80}]}]})
    await until(client, lambda there: len(there) == 1)
    status = await client.policies.GetStatus(policy_pb2.GetStatusRequest(), timeout=30)
    (policy,) = status.policies
    assert policy.accepted
    assert [(item.path, item.message) for item in policy.conditions] == [
        ("spec.ingress[0].from[0].clusterSelector",
         "unknown field; known are ipBlock, namespaceSelector, podSelector; spec.ingress[0] is dropped")]


async def test_events_say_what_has_become_of_policies(api: ApiServer, client: Client) -> None:
    """Of what is partly and not at all in force, once for each version; of what is well nothing."""
    await api.put(POLICIES, "well", "shop", spec=DENY)
    later = {"podSelector": {}, "ingress": [{"from": [{"clusterSelector": {}}]}, {"ports": [{"port": 80}]}]}
    made = await api.put(POLICIES, "later", "shop", spec=later)
    await api.put(POLICIES, "wrong", "shop", spec={"podSelector": {"matchLabels": 7}})

    async def told(count: int) -> dict[str, Any]:
        async with asyncio.timeout(_SOON):
            while len(api.events()) < count:  # noqa: ASYNC110  another process writes them
                await asyncio.sleep(0.02)
        return {event["involvedObject"]["name"]: event for event in api.events()}

    events = await told(2)
    assert {name: event["reason"] for name, event in events.items()} == {
        "later": "PolicyPartlyInForce", "wrong": "PolicyNotInForce"}
    assert events["later"]["involvedObject"] == {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "namespace": "shop", "name": "later",
        "uid": made["metadata"]["uid"]}
    assert "spec.ingress[0].from[0].clusterSelector: unknown field" in events["later"]["message"]
    assert "nothing is allowed by it to what it is for" in events["wrong"]["message"]
    await api.put(POLICIES, "later", "shop", spec=later, metadata={"labels": {"x": "y"}})
    await api.put(POLICIES, "marker", "shop", spec={"podSelector": {"matchLabels": 7}})
    events = await told(3)
    assert events["later"]["count"] == 1, "the same of the same is not said again"
    assert "status" not in api.one(POLICIES, "later", "shop")


async def test_a_server_that_takes_no_events_is_followed_all_the_same(
        api: ApiServer, service: Service, client: Client) -> None:
    api.read_only = True
    await api.put(POLICIES, "wrong", "shop", spec={"podSelector": {"matchLabels": 7}})
    await said(service, "an event is not written")
    await api.put(POLICIES, "well", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 2)
    assert service.tail(1_000_000).count("an event is not written") == 1


async def test_a_policy_that_can_not_be_read_opens_nothing(
        api: ApiServer, service: Service, client: Client) -> None:
    """One that was understood before stays, over a restart as well; one that never was isolates its namespace."""
    broken: dict[str, Any] = {"labels": "of a later version"}
    await api.put(POLICIES, "before", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 1)
    await api.put(POLICIES, "before", "shop", spec=DENY, metadata=broken)
    await api.put(POLICIES, "new", "shop", spec={"podSelector": {}, "ingress": [{}]}, metadata=broken)

    async def state() -> dict[str, tuple[bool, bool]]:
        answer = await client.policies.GetStatus(policy_pb2.GetStatusRequest(), timeout=30)
        return {item.object.name: (item.accepted, item.closed) for item in answer.policies}

    async def until_state(wanted: dict[str, tuple[bool, bool]]) -> None:
        async with asyncio.timeout(_SOON):
            while await state() != wanted:  # noqa: ASYNC110  another process has it
                await asyncio.sleep(0.02)

    await until_state({"before": (True, False), "new": (False, True)})
    assert service.terminate() == 0
    service.launch()
    await asyncio.to_thread(service.wait)
    await api.put(POLICIES, "marker", "shop", spec=DENY)
    await until_state({"before": (True, False), "new": (False, True), "marker": (True, False)})
    await api.put(POLICIES, "new", "shop", spec=DENY)
    await api.delete(POLICIES, "before", "shop")
    await until_state({"new": (True, False), "marker": (True, False)})


async def test_half_a_state_is_not_stored(api: ApiServer, etcd: EtcdServer, tmp_path: Path,
                                          endpoint_server: EndpointServer) -> None:
    """Namespaces without the policies in them would be open."""
    api.forbidden.add(POLICIES)
    await api.put(NAMESPACES, "shop")
    async with running(process(etcd, endpoint_server, api.kubeconfig(tmp_path / "config"))) as (service, client):
        await said(service, "networkpolicies is forbidden; a role must allow it")
        assert await objects(client) == {}
        api.forbidden.clear()
        await until(client, lambda there: len(there) == 1)


async def test_objects_of_calico_as_soon_as_there_are_such(api: ApiServer, etcd: EtcdServer, tmp_path: Path,
                                                           endpoint_server: EndpointServer) -> None:
    api.kinds.update(CALICO)
    tiers, policies, everywhere = (f"/apis/crd.projectcalico.org/v1/{plural}" for plural in (
        "tiers", "networkpolicies", "globalnetworkpolicies"))
    await api.put(tiers, "security", spec={"order": 100})
    await api.put(policies, "security.a", "shop", spec={"tier": "security", "selector": "all()"})
    await api.put(everywhere, "security.b", spec={"tier": "security", "selector": "all()"})
    async with running(process(etcd, endpoint_server, api.kubeconfig(tmp_path / "config"))) as (_, client):
        found = await until(client, lambda there: len(there) == 3)
    assert set(found) == {"Tier//security", "NetworkPolicy.projectcalico.org/shop/security.a",
                          "GlobalNetworkPolicy//security.b"}


async def test_what_may_not_be_read_any_longer_stays(
        api: ApiServer, etcd: EtcdServer, tmp_path: Path, endpoint_server: EndpointServer) -> None:
    """Of kinds that need not be there: a role that lost a line must not open what those policies shut."""
    api.kinds.update(CALICO)
    everywhere = "/apis/crd.projectcalico.org/v1/globalnetworkpolicies"
    await api.put(everywhere, "shut", spec={"selector": "all()", "types": ["Ingress"]})
    async with running(process(etcd, endpoint_server, api.kubeconfig(tmp_path / "config"))) as (service, client):
        await until(client, lambda there: len(there) == 1)
        assert service.terminate() == 0
        api.forbidden.add(everywhere)
        await api.put(POLICIES, "new", "shop", spec=DENY)
        service.launch()
        await asyncio.to_thread(service.wait)
        found = await until(client, lambda there: "NetworkPolicy/shop/new" in there)
        assert "GlobalNetworkPolicy//shut" in found


async def test_of_two_processes_one_writes_and_the_other_takes_over(
        api: ApiServer, etcd: EtcdServer, tmp_path: Path, endpoint_server: EndpointServer, service: Service,
        client: Client) -> None:
    await api.put(POLICIES, "first", "shop", spec=DENY)
    await until(client, lambda there: len(there) == 1)
    async with running(process(etcd, endpoint_server, api.kubeconfig(tmp_path / "config"))) as (_, second):
        service.kill()  # so its lease has to end first
        await api.put(POLICIES, "second", "shop", spec=DENY)
        await until(second, lambda there: len(there) == 2)


EXEC = """
{contexts: [{name: c, context: {cluster: k, user: u}}], clusters: [{name: k, cluster: {server: 'https://x'}}],
 users: [{name: u, user: {exec: {command: aws}}}]}"""


async def test_a_kubeconfig_that_can_not_be_used_is_said_and_awaited(
        api: ApiServer, etcd: EtcdServer, endpoint_server: EndpointServer, tmp_path: Path) -> None:
    config = tmp_path / "config"
    async with running(process(etcd, endpoint_server, config)) as (service, client):
        await said(service, f"kubeconfig: {config} does not exist")
        config.mkdir()
        await said(service, f"kubeconfig: {config} is a directory; name a file")
        config.rmdir()
        os.mkfifo(config)
        await said(service, f"kubeconfig: {config} is no regular file; name one")
        config.unlink()
        config.write_bytes(b"\xff\xfe")
        await said(service, f"kubeconfig: {config} is not text in UTF-8")
        config.write_text("contexts: [")
        await said(service, f"kubeconfig {config}")
        config.write_text("apiVersion: v2\nkind: Config")
        await said(service, "'v2' is not supported")
        config.write_text(EXEC)
        await said(service, "programs that make credentials are not run")
        api.kubeconfig(config)
        await api.put(NAMESPACES, "shop")
        await until(client, lambda there: len(there) == 1)
        assert "Traceback" not in service.tail(1_000_000)


def test_two_sources_exclude_each_other(tmp_path: Path) -> None:
    service = Service("policy", "--kubernetes", "in-cluster", "--kubeconfig", "/x")
    try:
        with pytest.raises(RuntimeError, match="exclude each other"):
            service.start()
    finally:
        service.stop()
