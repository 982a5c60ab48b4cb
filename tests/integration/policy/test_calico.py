"""Calico's objects for real: applied, compiled in their tiers, and refused where they are wrong."""

from __future__ import annotations

import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import FailedPrecondition, InvalidArgument
from tests.integration.policy.clients import Client, Node, namespace, network_policy
from tests.integration.policy.endpoints import EndpointServer, record

WEB = record("x", "web", "10.0.0.1", app="web")
CLIENT = record("x", "client", "10.0.0.2", node="n2", app="client")
POLICY = network_policy("x", "web", {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
    {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]})


@pytest.fixture(autouse=True)
def pods(endpoint_server: EndpointServer) -> None:
    endpoint_server.endpoints.put(WEB, CLIENT)


def calico(kind: str, name: str, spec: str, space: str = "") -> policy_pb2.Object:
    """An object of Calico's to apply."""
    inside = f', "namespace": "{space}"' if space else ""
    kinds = {"NetworkPolicy": "NetworkPolicy.projectcalico.org"}
    return policy_pb2.Object(
        kind=kinds.get(kind, kind), namespace=space, name=name, origin=f"{name}.yaml, document 1",
        manifest=f'{{"apiVersion": "projectcalico.org/v3", "kind": "{kind}", "metadata": {{"name": "{name}"{inside}}}, '
                 f'"spec": {spec}}}'.encode())


TIER = calico("Tier", "security", '{"order": 10}')
GUARD = calico("GlobalNetworkPolicy", "guard", '{"tier": "security", "order": 1, "selector": "app == \'web\'", '
               '"ingress": [{"action": "Deny", "protocol": "TCP", "destination": {"ports": [22]}}, '
               '{"action": "Log"}, {"action": "Pass"}]}')


async def test_calico_s_objects_are_applied_and_enforced(client: Client) -> None:
    await client.apply(namespace("x"), POLICY)
    assert await client.allowed("x/client", "x/web", 22)
    with pytest.raises(InvalidArgument, match=r"guard.yaml, document 1: GlobalNetworkPolicy guard: spec.tier"):
        await client.apply(GUARD)
    await client.apply(GUARD, TIER)
    assert not await client.allowed("x/client", "x/web", 22)
    assert await client.allowed("x/client", "x/web", 80)
    async with Node(client, "n1") as node:
        await node.receive()
        (web,) = node.endpoints.values()
        assert [(tier.tier, list(tier.policies)) for tier in web.ingress] == [
            ("security", ["security/guard"]), ("default", ["default/knp.default.x.web"])]
        assert [rule.action for rule in node.policies["security/guard"].ingress] == [
            policy_pb2.ACTION_DENY, policy_pb2.ACTION_LOG, policy_pb2.ACTION_PASS]
        await client.apply(calico("Tier", "security", '{"order": 2000000}'))
        await node.until(lambda node: [t.tier for e in node.endpoints.values() for t in e.ingress] == [
            "default", "security"])
    assert await client.allowed("x/client", "x/web", 22)


async def test_a_tier_stays_while_policies_are_in_it(client: Client) -> None:
    await client.apply(TIER, GUARD)
    with pytest.raises(FailedPrecondition, match="Tier security still has GlobalNetworkPolicy guard in it"):
        await client.delete(TIER)
    assert len((await client.delete(TIER, GUARD)).deleted) == 2


async def test_a_bad_version_leaves_the_old_one_in_force(client: Client) -> None:
    await client.apply(namespace("x"), TIER, GUARD)
    bad = calico("GlobalNetworkPolicy", "guard", '{"tier": "security", "ingress": [{"action": "Deny", "protcol": 6}]}')
    with pytest.raises(InvalidArgument, match=r"GlobalNetworkPolicy guard: spec\.ingress\[0\]\.protcol: unknown field"):
        await client.apply(bad)
    assert not await client.allowed("x/client", "x/web", 22)
