"""Workload endpoints, pods, namespaces and nodes: what their records say, and how one follows from another. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from muslin.cni import names, wishes
from muslin.cni.context import Bandwidth
from muslin.cni.invocation import Invocation
from muslin.errors import InvalidArgument

NAMESPACE_LABEL = "calico/k8s_ns"
"""Carries the pod's namespace, for selectors written for Calico."""


KUBERNETES = "kubernetes"
"""`source` of what follows an API server."""


class NamedPort(msgspec.Struct, frozen=True):
    """A container port that a policy can refer to by name."""

    name: str
    protocol: str
    """TCP, UDP or SCTP."""
    port: int


class Pod(msgspec.Struct, frozen=True):
    """What is known of a Kubernetes pod.

    `source`, of this and of the next two, is who looks after the record: KUBERNETES, or empty for whoever applied it.
    """

    namespace: str
    name: str
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    service_account: str = "default"
    ports: tuple[NamedPort, ...] = ()
    source: str = ""


class Namespace(msgspec.Struct, frozen=True):
    """What is known of a Kubernetes namespace."""

    name: str
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    source: str = ""


class Node(msgspec.Struct, frozen=True):
    """What is known of a Kubernetes node."""

    name: str
    labels: dict[str, str] = {}
    pod_cidrs: tuple[str, ...] = ()
    """Address/length."""
    source: str = ""


class WorkloadEndpoint(msgspec.Struct, frozen=True):
    """The record of one attachment."""

    network: str
    container_id: str
    ifname: str
    node: str
    orchestrator: str
    """`k8s` or `cni`."""
    workload: str
    """`<namespace>.<pod>`, or the container id."""
    namespace: str = ""
    pod: str = ""
    pod_uid: str = ""
    """What the runtime called the pod's uid, if it did: a name can be a new pod's while an old one still goes."""
    service_account: str = ""
    labels: dict[str, str] = {}
    addresses: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    host_interface: str = ""
    mac: str = ""
    ports: tuple[NamedPort, ...] = ()
    netns: str = ""
    bandwidth: Bandwidth | None = None
    joined: tuple[str, ...] = ()
    """Other networks that the interface was added to; their profiles are among `profiles`."""

    @property
    def identity(self) -> str:
        """`network/container/interface`."""
        return f"{self.network}/{self.container_id}/{self.ifname}"


def build(call: Invocation, pod: Pod | None) -> WorkloadEndpoint:
    """The record of an ADD; `pod` is the one that CNI_ARGS names, None if it is not known or there is none.

    Raises:
        InvalidArgument: no service before this one gave the attachment an address; a MAC address or a rate that
            the runtime or the pod asks for is none.
    """
    if not call.result.ips:
        raise InvalidArgument("the result so far holds no address: ipam comes before endpoint in the chain")
    endpoint = WorkloadEndpoint(
        network=call.network,
        container_id=call.container_id,
        ifname=call.ifname,
        node=call.node,
        orchestrator=call.orchestrator,
        workload=call.workload,
        namespace=call.namespace,
        pod=call.pod,
        pod_uid=call.args.get("K8S_POD_UID", "") if call.kubernetes else "",
        labels=merged({}, call.namespace) if call.kubernetes else dict(call.conf.labels),
        addresses=tuple(ip.address.partition("/")[0] for ip in call.result.ips),
        profiles=call.context.profiles,
        host_interface=call.host_interface,
        netns=call.netns,
    )
    annotations = pod.annotations if pod is not None and concerns(pod, endpoint) else {}
    endpoint = msgspec.structs.replace(
        endpoint, mac=wishes.mac(call.conf, call.args, annotations) or names.mac_address(call.attachment),
        bandwidth=wishes.bandwidth(call.conf, annotations))
    return follow(endpoint, pod) if pod else endpoint


def merged(labels: Mapping[str, str], namespace: str) -> dict[str, str]:
    """A pod's labels with its namespace; what the pod says of that itself does not count."""
    return {**labels, NAMESPACE_LABEL: namespace}


def concerns(pod: Pod, endpoint: WorkloadEndpoint) -> bool:
    """Whether an endpoint is this pod's, not that of another pod of the same name."""
    return ((pod.namespace, pod.name) == (endpoint.namespace, endpoint.pod)
            and (not pod.uid or not endpoint.pod_uid or pod.uid == endpoint.pod_uid))


def follow(endpoint: WorkloadEndpoint, pod: Pod) -> WorkloadEndpoint:
    """The record with what the pod says now; unchanged if the pod is another."""
    if not concerns(pod, endpoint):
        return endpoint
    return msgspec.structs.replace(endpoint, labels=merged(pod.labels, pod.namespace),
                                   service_account=pod.service_account, ports=pod.ports)
