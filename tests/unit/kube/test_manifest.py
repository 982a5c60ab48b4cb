"""Manifests become objects, or an error that names file, document, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.errors import InvalidArgument, MuslinError, NotFound
from muslin.kube.convert import (
    default_namespace,
    namespace_message,
    node_message,
    object_refs,
    pod_message,
    policy_object,
)
from muslin.kube.manifest import load, parse
from muslin.kube.objects import ContainerPort, Namespace, NetworkPolicy, Node, Object, Pod

NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}"
POD = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  namespace: shop
  labels: {app: web, app.kubernetes.io/part-of: shop}
  annotations: {note: hello}
spec:
  serviceAccountName: seller
  nodeSelector: {disk: ssd}
  initContainers:
    - {name: setup, ports: [{containerPort: 1}]}
    - {name: proxy, restartPolicy: Always, ports: [{name: admin, containerPort: 9901}]}
  containers:
    - name: web
      image: x
      ports: [{name: http, containerPort: 80}, {containerPort: 53, protocol: UDP}]
"""
POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow-web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from:
        - podSelector: {}
          namespaceSelector: {matchExpressions: [{key: team, operator: In, values: [a]}]}
        - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
      ports: [{port: http}, {protocol: UDP, port: 53, endPort: 60}]
"""


def one(text: str) -> Object:
    [item] = parse(text, "f.yaml")
    return item


def test_a_pod_is_what_the_network_needs_of_it() -> None:
    """Sidecars' ports count, those of other init containers do not; fields of the kubelet's are passed over."""
    pod = one(POD)
    assert isinstance(pod, Pod)
    assert (pod.namespace, pod.name, pod.service_account, pod.host_network) == ("shop", "web", "seller", False)
    assert pod.labels == {"app": "web", "app.kubernetes.io/part-of": "shop"}
    assert pod.annotations == {"note": "hello"}
    assert pod.ports == (
        ContainerPort("TCP", 80, "http"), ContainerPort("UDP", 53), ContainerPort("TCP", 9901, "admin"))


def test_the_endpoint_service_gets_named_ports() -> None:
    pod = one(POD)
    assert isinstance(pod, Pod)
    message = pod_message(pod, uid="u-1")
    assert message.uid == "u-1"
    assert [(port.name, port.protocol, port.port) for port in message.ports] == [
        ("http", "TCP", 80), ("admin", "TCP", 9901)]
    assert dict(message.labels) == pod.labels


def test_a_policy_keeps_its_manifest_and_gets_the_default_namespace() -> None:
    policy = one(POLICY)
    assert isinstance(policy, NetworkPolicy)
    message = policy_object(policy)
    manifest = json.loads(message.manifest)
    assert (message.kind, message.namespace, message.name) == ("NetworkPolicy", "default", "allow-web")
    assert message.origin == "f.yaml, document 1"
    assert manifest["metadata"] == {"name": "allow-web", "namespace": "default"}
    assert manifest["spec"]["ingress"][0]["ports"][1] == {"protocol": "UDP", "port": 53, "endPort": 60}
    assert [ref.name for ref in object_refs([policy])] == ["allow-web"]


@pytest.mark.parametrize("namespace", [one(NAMESPACE), default_namespace()])
def test_a_namespace_carries_its_name_as_a_label(namespace: Object) -> None:
    """As the API server does (well-known label kubernetes.io/metadata.name)."""
    assert isinstance(namespace, Namespace)
    labels = json.loads(namespace.manifest)["metadata"]["labels"]
    assert labels["kubernetes.io/metadata.name"] == namespace.name
    assert namespace_message(namespace).labels == labels


def test_what_addresses_are_decided_by_is_read() -> None:
    """Annotations of namespaces, labels of nodes; of a node's own specification its ranges of addresses."""
    namespace = one("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: y}, annotations: {n: '[1]'}}}")
    assert isinstance(namespace, Namespace)
    assert namespace_message(namespace) == endpoint_pb2.Namespace(
        name="a", labels={"x": "y", "kubernetes.io/metadata.name": "a"}, annotations={"n": "[1]"})
    node = one("{apiVersion: v1, kind: Node, metadata: {name: w.example, labels: {zone: a}}, spec: {any: [1]}}")
    assert isinstance(node, Node)
    assert node_message(node) == endpoint_pb2.Node(name="w.example", labels={"zone": "a"})


@pytest.mark.parametrize(("spec", "expected"), [
    ("{podCIDR: 10.1.0.0/24}", ["10.1.0.0/24"]),
    ("{podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00::/64']}", ["10.1.0.0/24", "fd00::/64"]),
    ("{}", []),
])
def test_ranges_of_a_node(spec: str, expected: list[str]) -> None:
    """Both families if the newer field is there, else what the older one says."""
    node = one(f"{{apiVersion: v1, kind: Node, metadata: {{name: a}}, spec: {spec}}}")
    assert isinstance(node, Node)
    assert list(node_message(node).pod_cidrs) == expected


def test_a_list_holds_objects_of_any_kind() -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("a", "b")]})
    assert [item.name for item in parse(text, "f.json")] == ["a", "b"]


@pytest.mark.parametrize(("text", "message"), [
    ("5", "f.yaml, document 1, line 1, column 1: must be a mapping, is the number 5"),
    ("a: b", "kind: missing"),
    ("{apiVersion: apps/v1, kind: Deployment}", "kind: Deployment is not supported; known kinds: Namespace, Node, Pod"),
    ("{apiVersion: v1beta1, kind: Pod}", "apiVersion: 'v1beta1' is not supported; say v1"),
    ("{apiVersion: v1, kind: NetworkPolicy}", "say networking.k8s.io/v1"),
    ("{apiVersion: v1, kind: Pod, metadata: {generateName: x}}", "metadata.name: missing"),
    ("{apiVersion: v1, kind: Pod, metadata: {name: Web}}", "metadata.name: 'Web' is not an object's name"),
    ("{apiVersion: v1, kind: Node, metadata: {name: a, namespace: b}}", "namespace: a Node is in no namespace"),
    ("{apiVersion: v1, kind: Node, metadata: {name: a, labels: {x: 1}}}", "labels.x: must be a string"),
    ("{apiVersion: v1, kind: Node, metadata: {name: a}, spec: {podCIDRs: [10.1.0.7/24]}}",
     "spec.podCIDRs[0]: not a range"),
    ("{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}", "metadata.name: 'a.b' is not a namespace's name"),
    ("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: yes}}}", "labels.x: must be a string"),
    ("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {-x: a}}}", "labels['-x']: not a label's key"),
    ("{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {x: a b}}}", "'a b' is not a label's value"),
    ("{apiVersion: v1, kind: Namespace, metadata: {name: a}, specs: {}}", "specs: unknown field; did you mean spec?"),
    (POD.replace("containerPort: 80", "containerPort: 80000"),
     "f.yaml, document 1, line 18, column 28: spec.containers[0].ports[0].containerPort: 80000 is not between"),
    (POD.replace("containerPort: 80", "containerPort: '80'"), "must be a whole number, is the string '80'"),
    (POD.replace("protocol: UDP", "protocol: udp"), "'udp' is not one of TCP, UDP, SCTP"),
    (POD.replace("protocol: UDP", "protocl: UDP"), "protocl: unknown field; did you mean protocol?"),
    (POD.replace("name: admin", "name: http"), "'http' names another port of this pod already"),
    (POD.replace("9901", "80"), "TCP 80 is declared twice in this pod"),
    (POD.replace("name: http", "name: much-too-long-a-name"), "is not a port's name"),
    (POD.replace("containers:\n    - name", "containerz:\n    - name"), "spec.containers: missing"),
    (POLICY.replace("podSelector: {matchLabels: {app: web}}", "policyTypes: []"), "spec.podSelector: missing"),
    (POLICY.replace("  ingress:", "  ingres:"), "spec.ingres: unknown field; did you mean ingress?"),
    (POLICY.replace("- from", "- to"), "spec.ingress[0].to: unknown field"),
    (POLICY.replace("cidr: 10.0.0.0/8, ", ""), "spec.ingress[0].from[1].ipBlock.cidr: missing"),
    (POLICY.replace("values: [a]", "values: [1]"), "matchExpressions[0].values[0]: must be a string"),
    (POLICY.replace("endPort: 60", "endPort: x"), "spec.ingress[0].ports[1].endPort: must be a whole number"),
])
def test_an_error_names_the_field_and_the_fix(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^f\.yaml, document 1, line \d+, column \d+: ") as caught:
        parse(text, "f.yaml")
    assert message in caught.value.message


def test_a_directory_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(POD)
    (tmp_path / "a.yml").write_text(NAMESPACE)
    (tmp_path / "README.md").write_text("not: [a manifest")
    assert [item.kind for item in load([str(tmp_path)]).objects] == ["Namespace", "Pod"]


def test_a_duplicate_across_files_names_both(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(NAMESPACE)
    (tmp_path / "b.yaml").write_text(f"# second\n---\n{NAMESPACE}")
    with pytest.raises(InvalidArgument) as caught:
        load([str(tmp_path)])
    message = caught.value.message
    assert f"{tmp_path}/b.yaml, document 1, line 3: metadata.name: Namespace shop is there already" in message
    assert f"({tmp_path}/a.yaml, document 1, line 1)" in message


def test_a_namespace_must_be_declared_or_known(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(POD)
    manifest = load([str(file)])
    manifest.require_namespaces({"shop"})
    with pytest.raises(InvalidArgument, match="namespace 'shop', which is not declared; add a Namespace"):
        manifest.require_namespaces(())


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        load([str(tmp_path / "none.yaml")])
    with pytest.raises(NotFound, match="no file here ends in"):
        load([str(tmp_path)])
    (tmp_path / "latin.yaml").write_bytes(b"a: b\nc: \xe9\n")
    with pytest.raises(InvalidArgument, match=r"latin\.yaml, line 2: byte 8 is not UTF-8"):
        load([str(tmp_path)])


WORDS = st.sampled_from([
    "apiVersion", "v1", "networking.k8s.io/v1", "kind", "Pod", "Namespace", "Node", "NetworkPolicy", "List", "items",
    "metadata", "name", "namespace", "labels", "a", "spec", "containers", "initContainers", "restartPolicy", "Always",
    "ports", "containerPort", "protocol", "TCP", "podSelector", "matchLabels", "matchExpressions", "key", "operator",
    "values", "ingress", "egress", "from", "to", "ipBlock", "cidr", "except", "port", "endPort", "hostNetwork",
    "serviceAccountName"])
TREES = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers(-5, 70000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5), max_leaves=20)
BODIES = st.fixed_dictionaries({
    "apiVersion": st.sampled_from(["v1", "networking.k8s.io/v1"]),
    "kind": st.sampled_from(["Pod", "Namespace", "Node", "NetworkPolicy", "List"]),
    "metadata": st.just({"name": "a"}) | TREES,
    "spec": TREES,
})


@given(st.text() | (TREES | BODIES).map(json.dumps))
def test_any_text_gives_objects_or_an_error_of_ours(text: str) -> None:
    """Objects out of anything are complete enough to be sent; everything else is a MuslinError."""
    try:
        items = parse(text, "f.yaml")
    except MuslinError:
        return
    for item in items:
        if isinstance(item, Pod):
            pod_message(item).SerializeToString()
        elif isinstance(item, Node):
            node_message(item).SerializeToString()
        else:
            assert json.loads(policy_object(item).manifest)["kind"] == item.kind


def test_the_example_is_complete() -> None:
    manifest = load(["examples/three-tier"])
    manifest.require_namespaces(())
    assert (len(manifest.namespaces), len(manifest.pods)) == (3, 12)


def test_an_object_knows_the_lines_of_its_fields() -> None:
    """Lines of a List's items, too; of what is not there, the line of the last part that is."""
    text = "apiVersion: v1\nkind: List\nitems:\n- " + POLICY.strip().replace("\n", "\n  ")
    origin = one(text).origin
    lines = text.splitlines()
    for path, begins in (("spec", "spec:"), ("spec.ingress[0]", "- from:"), ("spec.ingress[0].ports[1].port", "ports:"),
                         ("spec.ingress[0].from[1].ipBlock.cidr", "- ipBlock:"), ("spec.ingress[7].ports", "ingress:"),
                         ("metadata['name']", "metadata:"), ("", "- apiVersion:")):
        assert lines[origin.line_of(path) - 1].strip().startswith(begins), path
