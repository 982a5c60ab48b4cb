"""What questions about policy are asked of: endpoints, objects, and where each object was written. Pure.

A world comes from manifests (`of_manifest`) or from what runs (`live`).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.api.policy.v1 import policy_pb2
from muslin.cli.play.flows import PlayedPort
from muslin.cli.play.stage import needed_objects
from muslin.errors import Exhausted, InvalidArgument
from muslin.kube.convert import pod_message, policy_object
from muslin.kube.manifest import Manifest
from muslin.kube.objects import Origin, Pod

__all__ = ["DEFAULT_POOL", "NAMESPACE_LABEL", "Declared", "Endpoint", "World", "of_manifest"]

DEFAULT_POOL = "192.168.0.0/16"
"""Range that pods of manifests get addresses from: that of Muslin's pool if nothing else is said."""
NAMESPACE_LABEL = "calico/k8s_ns"
"""Label of an endpoint's record: its namespace."""

Endpoint = endpoint_pb2.WorkloadEndpoint


@dataclass(frozen=True, slots=True)
class Declared:
    """An object of policy."""

    message: policy_pb2.Object
    origin: Origin | None = None
    """Where it stands, with lines; None if that is not known any more."""

    @property
    def key(self) -> tuple[str, str, str]:
        """Kind, namespace and name."""
        return self.message.kind, self.message.namespace, self.message.name

    @property
    def label(self) -> str:
        """The same for people."""
        kind, namespace, name = self.key
        return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"

    @property
    def manifest(self) -> dict[str, Any]:
        """The object as it was written."""
        found: dict[str, Any] = json.loads(self.message.manifest)
        return found

    def with_manifest(self, manifest: Mapping[str, Any]) -> Declared:
        """The same object, saying something else."""
        message = policy_pb2.Object()
        message.CopyFrom(self.message)
        message.manifest = json.dumps(manifest).encode()
        return Declared(message, self.origin)

    def line_of(self, path: str) -> int:
        """Line of a field; 0 if it is not known."""
        return self.origin.line_of(path) if self.origin else 0

    def place(self, path: str = "") -> str:
        """Where a field stands, as far as it is known."""
        mark = self.origin.mark_of(path) if self.origin else None
        return f"{self.message.origin}, {mark}" if mark else self.message.origin


@dataclass(frozen=True, slots=True)
class World:
    """Endpoints and objects."""

    endpoints: tuple[Endpoint, ...]
    objects: tuple[Declared, ...]
    ports: Mapping[str, tuple[PlayedPort, ...]] = field(default_factory=dict)
    """By pod (`namespace/name`): the ports that it is known to serve."""

    def owner(self, policy: str, tier: str) -> Declared | None:
        """The object that a policy was translated from, or without a tier a profile."""
        key = _object_of(policy, tier)
        return next((item for item in self.objects if item.key == key), None)


def _object_of(policy: str, tier: str) -> tuple[str, str, str]:
    """Kind, namespace and name that the name of a policy or profile stands for; services/policy gives these names."""
    if tier and policy.startswith("knp.default."):
        namespace, _, name = policy.removeprefix("knp.default.").partition(".")
        return "NetworkPolicy", namespace, name
    if tier:
        namespace, _, name = policy.rpartition("/")
        return "NetworkPolicy.projectcalico.org" if namespace else "GlobalNetworkPolicy", namespace, name
    if policy.startswith("serviceaccount/"):
        _, namespace, name = policy.split("/", 2)
        return "ServiceAccount", namespace, name
    if policy.startswith("k8s_ns."):
        return "Namespace", "", policy.removeprefix("k8s_ns.")
    return "Profile", "", policy


def of_manifest(manifest: Manifest, pools: Sequence[str] = (DEFAULT_POOL,), *, strict: bool = True) -> World:
    """A world of manifests. Pods whose `status` tells addresses have those; the others get the next of each pool.

    Pods on the host's network are no endpoints. Unless `strict`, namespaces may be declared elsewhere.

    Raises:
        InvalidArgument: a pool or an address is none, or a namespace is not declared.
        Exhausted: a pool has fewer addresses than there are pods.
    """
    if strict:
        manifest.require_namespaces(())
    origins = {(item.kind, item.namespace, item.name): item.origin for item in manifest.objects}
    objects = tuple(Declared(policy_object(item), origins.get((item.kind, item.namespace, item.name), item.origin))
                    for item in needed_objects(manifest, ()))
    pods = [pod for pod in manifest.pods if not pod.host_network]
    given = {f"{pod.namespace}/{pod.name}": _addresses(pod) for pod in pods}
    free = [_free(pool, {address for taken in given.values() for address in taken}) for pool in pools]
    endpoints = [_endpoint(number, pod, given[f"{pod.namespace}/{pod.name}"] or tuple(map(next, free)))
                 for number, pod in enumerate(pods)]
    ports = {f"{pod.namespace}/{pod.name}": tuple(PlayedPort(port.protocol, port.port) for port in pod.ports)
             for pod in pods}
    return World(tuple(endpoints), objects, ports)


def _endpoint(number: int, pod: Pod, addresses: tuple[str, ...]) -> Endpoint:
    message = pod_message(pod)
    return Endpoint(
        attachment=cni_pb2.Attachment(network="k8s-pod-network", container_id=f"{pod.namespace}.{pod.name}",
                                      ifname="eth0"),
        node="node1", orchestrator="k8s", namespace=pod.namespace, pod=pod.name, workload=pod.name,
        service_account=pod.service_account, labels={**pod.labels, NAMESPACE_LABEL: pod.namespace},
        addresses=addresses, ports=message.ports, profiles=[f"k8s_ns.{pod.namespace}"],
        host_interface=f"cali{number}", revision=number + 1)


def _addresses(pod: Pod) -> tuple[str, ...]:
    """What the pod's status says, as a cluster that it was read from has filled it in."""
    status = _mapping(pod.origin.root.value if pod.origin.root else None).get("status")
    fields = _mapping(status.value if status else None)
    listed = fields["podIPs"].value if "podIPs" in fields else ()
    found = [entry["ip"].value for item in (listed if isinstance(listed, tuple) else ())
             if "ip" in (entry := _mapping(item.value))]
    if not found and "podIP" in fields:
        found = [fields["podIP"].value]
    try:
        return tuple(str(ipaddress.ip_address(str(text))) for text in found if text)
    except ValueError as problem:
        raise InvalidArgument(f"{pod.origin}, line {pod.origin.line_of('status')}: status.podIPs: {problem}") from None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _free(pool: str, taken: set[str]) -> Iterator[str]:
    """Addresses of a pool that nobody has, without its first."""
    try:
        network = ipaddress.ip_network(pool)
    except ValueError as problem:
        raise InvalidArgument(f"pool: {problem}; say it as {DEFAULT_POOL}") from None
    for address in network:
        if address != network.network_address and str(address) not in taken:
            yield str(address)
    raise Exhausted(f"pool {pool} has no address for every pod; name a larger one")

