"""From a document's fields to the objects it declares.

Of Pods and Nodes only what the network needs is read; the rest is the kubelet's business and is passed over. Namespaces
and NetworkPolicies are read strictly; of Calico's objects only the frame is, since the policy service checks the rest.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping

from muslin.kube import policy_spec
from muslin.kube.document import Plain, plain
from muslin.kube.field import DNS_LABEL, DNS_SUBDOMAIN, Field
from muslin.kube.objects import (
    DEFAULT_NAMESPACE,
    NAME_LABEL,
    PROTOCOLS,
    ContainerPort,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Origin,
    Pod,
)

__all__ = ["read"]

_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?", re.ASCII)  # RFC 6335 service name
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_LABEL_VALUE = re.compile(rf"({_LABEL_NAME.pattern})?", re.ASCII)
CALICO_VERSIONS = ("projectcalico.org/v3", "crd.projectcalico.org/v1")
CALICO_KINDS = ("NetworkPolicy", "GlobalNetworkPolicy", "Tier", "Profile")
_CALICO_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)  # profiles: a network's
_NAMESPACE_NAME = "a namespace's name: lower-case letters, digits and '-', at most 63"
_OBJECT_NAME = "an object's name: lower-case letters, digits, '-' and '.', at most 253"


def read(root: Field) -> list[Object]:
    """The objects of one document, or of one item of a List.

    Raises InvalidArgument for a kind that is not known or a field that is not right.
    """
    kind = root.require("kind", "say kind: Namespace, Node, Pod or NetworkPolicy")
    version = root.mapping().get("apiVersion")
    if version is not None and version.node.value in CALICO_VERSIONS:
        return [_calico(root, kind)]
    match kind.string():
        case "List":
            _api_version(root, "v1")
            return [item for entry in root.require("items", "a List holds items").items() for item in read(entry)]
        case "Namespace":
            _api_version(root, "v1")
            return [_namespace(root)]
        case "Node":
            _api_version(root, "v1")
            return [_node(root)]
        case "Pod":
            _api_version(root, "v1")
            return [_pod(root)]
        case "NetworkPolicy":
            _api_version(root, "networking.k8s.io/v1")
            return [_network_policy(root)]
        case "ServiceAccount":
            _api_version(root, "v1")
            return [_service_account(root)]
        case other:
            raise kind.error(f"{other} is not supported; known kinds: Namespace, Node, Pod, NetworkPolicy, "
                             "ServiceAccount, List")


def _api_version(root: Field, version: str) -> None:
    given = root.require("apiVersion", f"say apiVersion: {version}")
    if given.string() != version:
        raise given.error(f"{given.string()!r} is not supported; say {version}")


def _origin(root: Field) -> Origin:
    return Origin(root.document.file, root.document.number, root.node.line, root.node)


def _metadata(root: Field, form: re.Pattern[str], what: str) -> tuple[str, str, dict[str, Field]]:
    """Name, namespace and all fields of the metadata."""
    metadata = root.require("metadata", "say metadata: {name: ...}")
    name = metadata.require("name", "every object needs a name of its own (generateName is not supported)")
    fields = metadata.mapping()
    namespace = DEFAULT_NAMESPACE
    if "namespace" in fields:
        namespace = fields["namespace"].name(DNS_LABEL, _NAMESPACE_NAME)
    if "labels" in fields:
        _labels(fields["labels"])
    if "annotations" in fields:
        fields["annotations"].strings()
    return name.name(form, what), namespace, fields


def _labels(labels: Field) -> dict[str, str]:
    """Labels whose keys and values have the form that Kubernetes asks for."""
    for key, value in labels.mapping().items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or (slash and not DNS_SUBDOMAIN.fullmatch(prefix)):
            raise value.error("not a label's key: [prefix/]name, the name letters, digits, '-', '_', '.', at most 63")
        value.name(_LABEL_VALUE, "a label's value: letters, digits, '-', '_', '.', at most 63, or empty")
    return labels.strings()


def _namespace(root: Field) -> Namespace:
    root.only("apiVersion", "kind", "metadata", "spec", "status")
    name, _, fields = _metadata(root, DNS_LABEL, _NAMESPACE_NAME)
    if "namespace" in fields:
        raise fields["namespace"].error("a Namespace is in no namespace; remove it")
    labels = {**_strings(fields, "labels"), NAME_LABEL: name}
    return Namespace(name, _manifest(root, labels=dict(labels)), _origin(root), labels, _strings(fields, "annotations"))


def _node(root: Field) -> Node:
    name, _, fields = _metadata(root, DNS_SUBDOMAIN, _OBJECT_NAME)
    if "namespace" in fields:
        raise fields["namespace"].error("a Node is in no namespace; remove it")
    return Node(name, _origin(root), _strings(fields, "labels"), _pod_cidrs(root.mapping().get("spec")))


def _pod_cidrs(spec: Field | None) -> tuple[str, ...]:
    """A Node's spec.podCIDRs, or the older spec.podCIDR."""
    fields = spec.mapping() if spec else {}
    if "podCIDRs" in fields:
        listed = list(fields["podCIDRs"].items())
    else:
        listed = [fields["podCIDR"]] if "podCIDR" in fields else []
    for field in listed:
        try:
            ipaddress.ip_network(field.string())
        except ValueError as problem:
            raise field.error(f"not a range of addresses, such as 10.0.1.0/24: {problem}") from None
    return tuple(field.string() for field in listed)


def _strings(metadata: Mapping[str, Field], name: str) -> dict[str, str]:
    return metadata[name].strings() if name in metadata else {}


def _network_policy(root: Field) -> NetworkPolicy:
    root.only("apiVersion", "kind", "metadata", "spec", "status")
    name, namespace, _ = _metadata(root, DNS_SUBDOMAIN, _OBJECT_NAME)
    policy_spec.check(root.require("spec", "say what the policy does; podSelector: {} selects all pods"))
    return NetworkPolicy(namespace, name, _manifest(root, namespace=namespace), _origin(root))


def _calico(root: Field, kind: Field) -> NetworkPolicy:
    """An object of Calico's. Its specification is the policy service's to check, which names the path too."""
    if kind.string() not in CALICO_KINDS:
        raise kind.error(f"{kind.string()} of Calico is not supported; known kinds: {', '.join(CALICO_KINDS)}")
    root.only("apiVersion", "kind", "metadata", "spec", "status")
    name, namespace, fields = _metadata(root, _CALICO_NAME, _OBJECT_NAME)
    if kind.string() == "NetworkPolicy":
        return NetworkPolicy(namespace, name, _manifest(root, namespace=namespace), _origin(root),
                             "NetworkPolicy.projectcalico.org")
    if "namespace" in fields:
        raise fields["namespace"].error(f"a {kind.string()} is in no namespace; remove it")
    return NetworkPolicy("", name, _manifest(root), _origin(root), kind.string())


def _service_account(root: Field) -> NetworkPolicy:
    root.only("apiVersion", "kind", "metadata", "secrets", "imagePullSecrets", "automountServiceAccountToken")
    name, namespace, _ = _metadata(root, DNS_SUBDOMAIN, _OBJECT_NAME)
    return NetworkPolicy(namespace, name, _manifest(root, namespace=namespace), _origin(root), "ServiceAccount")


def _manifest(root: Field, **metadata: Plain) -> bytes:
    """The object as JSON, with what the API server would have added to its metadata."""
    value = plain(root.node)
    assert isinstance(value, dict)
    given = value["metadata"]
    assert isinstance(given, dict)
    return json.dumps({**value, "metadata": {**given, **metadata}}, ensure_ascii=False, sort_keys=True).encode()


def _pod(root: Field) -> Pod:
    name, namespace, metadata = _metadata(root, DNS_SUBDOMAIN, _OBJECT_NAME)
    spec = root.require("spec", "a pod has containers")
    fields = spec.mapping()
    containers = list(spec.require("containers", "a pod has containers").items())
    if not containers:
        raise fields["containers"].error("must not be empty")
    if "initContainers" in fields:  # one that always restarts is a sidecar and serves as long as the pod does
        containers += [item for item in fields["initContainers"].items() if _restarts(item)]
    account = fields.get("serviceAccountName")
    return Pod(
        namespace, name, _origin(root),
        uid=metadata["uid"].string() if "uid" in metadata else "",
        labels=_strings(metadata, "labels"),
        annotations=_strings(metadata, "annotations"),
        service_account=account.name(DNS_SUBDOMAIN, "a service account's name") if account else "default",
        ports=_ports(containers),
        host_network="hostNetwork" in fields and fields["hostNetwork"].boolean(),
        node_name=fields["nodeName"].string() if "nodeName" in fields else "",
    )


def _restarts(container: Field) -> bool:
    policy = container.mapping().get("restartPolicy")
    return policy is not None and policy.string() == "Always"


def _ports(containers: list[Field]) -> tuple[ContainerPort, ...]:
    """The declared ports of containers; names and (protocol, number) are unique in the pod."""
    ports: list[ContainerPort] = []
    for container in containers:
        container.require("name", "every container needs a name").name(DNS_LABEL, "a container's name")
        declared = container.mapping().get("ports")
        for item in declared.items() if declared else ():
            fields = item.only("name", "containerPort", "protocol", "hostPort", "hostIP")
            number = item.require("containerPort", "the number that the container listens on").integer(1, 65535)
            protocol = fields["protocol"].string() if "protocol" in fields else "TCP"
            if protocol not in PROTOCOLS:
                raise fields["protocol"].error(f"{protocol!r} is not one of {', '.join(PROTOCOLS)}")
            name = ""
            if "name" in fields:
                name = fields["name"].name(_PORT_NAME, "a port's name: a-z, 0-9, single '-', a letter, at most 15")
                if any(port.name == name for port in ports):
                    raise fields["name"].error(f"{name!r} names another port of this pod already")
            if any((port.protocol, port.port) == (protocol, number) for port in ports):
                raise item.error(f"{protocol} {number} is declared twice in this pod")
            ports.append(ContainerPort(protocol, number, name))
    return tuple(ports)
