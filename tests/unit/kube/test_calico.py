"""Calico's objects and ServiceAccounts in manifests."""

from __future__ import annotations

import json
import re

import pytest

from muslin.errors import InvalidArgument
from muslin.kube.convert import object_refs, policy_object
from muslin.kube.manifest import parse
from muslin.kube.objects import NetworkPolicy

TEXT = """
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {selector: "app == 'web'"}
---
apiVersion: crd.projectcalico.org/v1
kind: GlobalNetworkPolicy
metadata: {name: base}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: Profile
metadata: {name: My_net}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: ci}
secrets: [{name: token}]
"""


def test_they_go_to_the_policy_service_as_they_are() -> None:
    items = [item for item in parse(TEXT, "a.yaml") if isinstance(item, NetworkPolicy)]
    assert [(ref.kind, ref.namespace, ref.name) for ref in object_refs(items)] == [
        ("NetworkPolicy.projectcalico.org", "shop", "web"), ("GlobalNetworkPolicy", "", "base"),
        ("Tier", "", "security"), ("Profile", "", "My_net"), ("ServiceAccount", "default", "ci")]
    message = policy_object(items[0])
    assert message.origin == "a.yaml, document 1"
    assert json.loads(message.manifest)["spec"] == {"selector": "app == 'web'"}


@pytest.mark.parametrize(("old", "new", "problem"), [
    ("kind: Tier", "kind: HostEndpoint", "kind: HostEndpoint of Calico is not supported; known kinds: NetworkPolicy"),
    ("{name: base}", "{name: base, namespace: x}", "metadata.namespace: a GlobalNetworkPolicy is in no namespace"),
    ("spec: {order: 10}", "specs: {order: 10}", "specs: unknown field; did you mean spec?"),
])
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(problem)):
        parse(TEXT.replace(old, new), "a.yaml")
