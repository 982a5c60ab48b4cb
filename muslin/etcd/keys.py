"""Every key in etcd: where each kind of record lives, how its key is built and how it is read back.

This is the one place that knows the layout. A key is a prefix and one or more parts, joined by slashes::

    /muslin/ipam/v1/pools/<name>
    /muslin/ipam/v1/pool-generation
    /muslin/ipam/v1/reservations
    /muslin/ipam/v1/config
    /muslin/ipam/v1/nodes/<node>
    /muslin/ipam/v1/barrier
    /muslin/ipam/v1/cluster
    /muslin/ipam/v1/quarantine/<revision>/<key below /muslin/ipam/>
    /muslin/ipam/v1/blocks/<cidr>
    /muslin/ipam/v1/affinities/<node>/<cidr>
    /muslin/ipam/v1/handles/<network>/<container>/<ifname>
    /muslin/endpoint/v1/endpoints/<network>/<container>/<ifname>
    /muslin/endpoint/v1/interfaces/<container>/<ifname>     outside Kubernetes
    /muslin/endpoint/v1/pods/<namespace>/<name>
    /muslin/endpoint/v1/namespaces/<name>
    /muslin/endpoint/v1/nodes/<name>
    /muslin/endpoint/v1/hosts/<node>
    /muslin/endpoint/v1/presences/<node>                    with a lease
    /muslin/endpoint/v1/barrier
    /muslin/endpoint/v1/writer
    /muslin/endpoint/v1/fences/<2 hex digits>
    /muslin/policy/v1/objects/<kind>/<namespace>/<name>     namespace "_": the object belongs to the whole cluster
    /muslin/policy/v1/profiles/<name>
    /muslin/policy/v1/writer
    /muslin/policy/v1/fences/<hex digit>

The slash of a CIDR is written as a dash (`10.0.0.0-26`). No other part may hold a slash: none of these names can
(CNI 1.1 for networks, containers and interfaces; RFC 1123 labels and subdomains for Kubernetes), so a slash is an
error and never an escape. Each service owns one first level (`IPAM`, `ENDPOINT`, `POLICY`), which an etcd role can be
restricted to.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

from muslin.errors import Corrupt, InvalidArgument

__all__ = [
    "IPAM", "ENDPOINT", "POLICY",
    "IPAM_POOLS", "IPAM_POOL_GENERATION", "IPAM_BLOCKS", "IPAM_AFFINITIES", "IPAM_HANDLES", "IPAM_BARRIER",
    "IPAM_RESERVATIONS", "IPAM_CONFIG", "IPAM_NODES", "ipam_node", "IPAM_CLUSTER", "IPAM_QUARANTINE", "quarantined",
    "ENDPOINTS", "PODS", "NAMESPACES", "NODES", "ENDPOINT_BARRIER", "ENDPOINT_FENCES", "endpoint_fence",
    "ENDPOINT_INTERFACES", "endpoint_interface", "ENDPOINT_WRITER",
    "POLICY_OBJECTS", "POLICY_PROFILES", "POLICY_WRITER",
    "CLUSTER",
    "pool", "parse_pool", "block", "parse_block", "affinity", "affinities_of", "parse_affinity",
    "handle", "handles_of", "parse_handle",
    "endpoint", "endpoints_of", "parse_endpoint", "pod", "pods_in", "parse_pod",
    "namespace", "parse_namespace", "node", "parse_node",
    "HOSTS", "PRESENCES", "host", "parse_host", "presence", "parse_presence",
    "policy_object", "policy_objects", "parse_policy_object", "POLICY_FENCES", "policy_fence",
    "profile", "parse_profile",
]

IPAM = "/muslin/ipam/"
ENDPOINT = "/muslin/endpoint/"
POLICY = "/muslin/policy/"

IPAM_POOLS = IPAM + "v1/pools/"
IPAM_POOL_GENERATION = IPAM + "v1/pool-generation"
"""One key, rewritten with every pool that is made, so that no two are made at once."""
IPAM_RESERVATIONS = IPAM + "v1/reservations"
"""One record of all reservations: every assignment is made on condition that it is unchanged."""
IPAM_CONFIG = IPAM + "v1/config"
IPAM_NODES = IPAM + "v1/nodes/"
IPAM_BLOCKS = IPAM + "v1/blocks/"
IPAM_AFFINITIES = IPAM + "v1/affinities/"
IPAM_HANDLES = IPAM + "v1/handles/"
IPAM_BARRIER = IPAM + "v1/barrier"
"""Rewritten by a process that must know whether its copy of the records is current: when it sees its write, it is."""
IPAM_CLUSTER = IPAM + "v1/cluster"
"""A random name, made once: tells this store from another."""
IPAM_QUARANTINE = IPAM + "v1/quarantine/"
"""Records as they were before a repair replaced them; read by people only."""
ENDPOINTS = ENDPOINT + "v1/endpoints/"
ENDPOINT_INTERFACES = ENDPOINT + "v1/interfaces/"
"""The network that a container's interface was added to first, outside Kubernetes."""
PODS = ENDPOINT + "v1/pods/"
NAMESPACES = ENDPOINT + "v1/namespaces/"
NODES = ENDPOINT + "v1/nodes/"
HOSTS = ENDPOINT + "v1/hosts/"
"""Where nodes can be reached, as they say themselves."""
PRESENCES = ENDPOINT + "v1/presences/"
"""Nodes that have said so lately: keys that a lease ends."""
ENDPOINT_BARRIER = ENDPOINT + "v1/barrier"
"""As `IPAM_BARRIER`."""
ENDPOINT_FENCES = ENDPOINT + "v1/fences/"
"""A record is made on condition that its fence is unchanged, and its deletion rewrites the fence, whether there was a
record or not: what was sent before the deletion can not arrive after it. See `endpoint_fence`."""
ENDPOINT_WRITER = ENDPOINT + "v1/writer"
"""Held by the one process that writes what an API server has; ends with its lease (muslin.etcd.election)."""
POLICY_OBJECTS = POLICY + "v1/objects/"
POLICY_PROFILES = POLICY + "v1/profiles/"
POLICY_WRITER = POLICY + "v1/writer"
"""As `ENDPOINT_WRITER`."""
POLICY_FENCES = POLICY + "v1/fences/"
"""As `ENDPOINT_FENCES`, for objects. There are 16: a transaction about many objects must have room for all fences."""

CLUSTER = "_"
"""Stands for the namespace of an object that has none; no Kubernetes namespace can be called so (RFC 1123)."""


def _join(prefix: str, *named: tuple[str, str]) -> str:
    for what, part in named:
        if not part or "/" in part:
            raise InvalidArgument(f"{what} {part!r} can not be part of an etcd key: it must not be empty or hold a '/'")
    return prefix + "/".join(part for _, part in named)


def _split(prefix: str, key: str, count: int) -> list[str]:
    parts = key.removeprefix(prefix).split("/")
    if not key.startswith(prefix) or len(parts) != count or not all(parts):
        pattern = prefix + "/".join(["..."] * count)
        raise Corrupt(f"etcd key {key!r} is not of the form {pattern}: nothing of ours wrote it, delete it")
    return parts


def _cidr_part(cidr: str) -> str:
    address, slash, length = cidr.partition("/")
    if not slash or not length.isdecimal():
        raise InvalidArgument(f"cidr {cidr!r} can not be part of an etcd key: write it as address/length")
    return f"{address}-{length}"


def _cidr_of(part: str, key: str) -> str:
    address, dash, length = part.rpartition("-")
    if not dash or not length.isdecimal():
        raise Corrupt(f"etcd key {key!r} does not end in address-length: nothing of ours wrote it, delete it")
    return f"{address}/{length}"


@lru_cache(maxsize=1024)
def pool(name: str) -> str:
    """The key of an address pool."""
    return _join(IPAM_POOLS, ("pool name", name))


def parse_pool(key: str) -> str:
    """The pool name in a key. Raises Corrupt, as all parsers here do, if the key is not of this kind."""
    return _split(IPAM_POOLS, key, 1)[0]


def ipam_node(node: str) -> str:
    """The key that is rewritten with every block that a node claims, so that it claims no two at once."""
    return _join(IPAM_NODES, ("node", node))


def quarantined(key: str, revision: int) -> str:
    """Where the bytes that a record of the address manager had at a revision are kept."""
    return f"{IPAM_QUARANTINE}{revision}/{key.removeprefix(IPAM)}"


@lru_cache(maxsize=65536)
def block(cidr: str) -> str:
    """The key of the block that covers `cidr` (address/length)."""
    return _join(IPAM_BLOCKS, ("cidr", _cidr_part(cidr)))


def parse_block(key: str) -> str:
    """The CIDR in a block's key."""
    return _cidr_of(_split(IPAM_BLOCKS, key, 1)[0], key)


def affinity(node: str, cidr: str) -> str:
    """The key that says a node claims a block."""
    return _join(IPAM_AFFINITIES, ("node", node), ("cidr", _cidr_part(cidr)))


def affinities_of(node: str) -> str:
    """The prefix of all affinities of a node."""
    return _join(IPAM_AFFINITIES, ("node", node)) + "/"


def parse_affinity(key: str) -> tuple[str, str]:
    """The node and the CIDR in an affinity's key."""
    node, cidr = _split(IPAM_AFFINITIES, key, 2)
    return node, _cidr_of(cidr, key)


def _attachment(prefix: str, network: str, container: str, ifname: str) -> str:
    return _join(prefix, ("network", network), ("container id", container), ("interface name", ifname))


def _attachments(prefix: str, network: str, container: str) -> str:
    parts = [("network", network), *([("container id", container)] if container else [])]
    return _join(prefix, *parts) + "/"


def _parse_attachment(prefix: str, key: str) -> tuple[str, str, str]:
    network, container, ifname = _split(prefix, key, 3)
    return network, container, ifname


def handle(network: str, container: str, ifname: str) -> str:
    """The key of the addresses that an attachment holds."""
    return _attachment(IPAM_HANDLES, network, container, ifname)


def handles_of(network: str, container: str = "") -> str:
    """The prefix of all handles of a network, or of one container on it."""
    return _attachments(IPAM_HANDLES, network, container)


def parse_handle(key: str) -> tuple[str, str, str]:
    """Network, container id and interface name in a handle's key."""
    return _parse_attachment(IPAM_HANDLES, key)


def endpoint(network: str, container: str, ifname: str) -> str:
    """The key of an attachment's workload endpoint."""
    return _attachment(ENDPOINTS, network, container, ifname)


def endpoint_fence(key: str) -> str:
    """The fence of a record below `ENDPOINT`: one of 256, so that few of what is written at once have the same."""
    return f"{ENDPOINT_FENCES}{crc32(key.encode()) & 0xFF:02x}"


def endpoint_interface(container: str, ifname: str) -> str:
    """The key that says which network an interface of a container outside Kubernetes is on first."""
    return _join(ENDPOINT_INTERFACES, ("container id", container), ("interface name", ifname))


def endpoints_of(network: str, container: str = "") -> str:
    """The prefix of all endpoints of a network, or of one container on it."""
    return _attachments(ENDPOINTS, network, container)


def parse_endpoint(key: str) -> tuple[str, str, str]:
    """Network, container id and interface name in an endpoint's key."""
    return _parse_attachment(ENDPOINTS, key)


def pod(namespace: str, name: str) -> str:
    """The key of a Kubernetes Pod."""
    return _join(PODS, ("namespace", namespace), ("pod name", name))


def pods_in(namespace: str) -> str:
    """The prefix of all Pods of a namespace."""
    return _join(PODS, ("namespace", namespace)) + "/"


def parse_pod(key: str) -> tuple[str, str]:
    """Namespace and name in a Pod's key."""
    namespace, name = _split(PODS, key, 2)
    return namespace, name


def namespace(name: str) -> str:
    """The key of a Kubernetes Namespace."""
    return _join(NAMESPACES, ("namespace", name))


def parse_namespace(key: str) -> str:
    """The name in a Namespace's key."""
    return _split(NAMESPACES, key, 1)[0]


def node(name: str) -> str:
    """The key of a Kubernetes Node."""
    return _join(NODES, ("node", name))


def parse_node(key: str) -> str:
    """The name in a Node's key."""
    return _split(NODES, key, 1)[0]


def host(node: str) -> str:
    """The key of where a node can be reached."""
    return _join(HOSTS, ("node", node))


def parse_host(key: str) -> str:
    """The node in a host's key."""
    return _split(HOSTS, key, 1)[0]


def presence(node: str) -> str:
    """The key that is there while a node is present."""
    return _join(PRESENCES, ("node", node))


def parse_presence(key: str) -> str:
    """The node in the key of its presence."""
    return _split(PRESENCES, key, 1)[0]


def policy_object(kind: str, namespace: str, name: str) -> str:
    """The key of a Kubernetes object that policy is made of; `namespace` is empty for cluster-wide kinds."""
    return _join(POLICY_OBJECTS, ("kind", kind), ("namespace", namespace or CLUSTER), ("name", name))


def policy_objects(kind: str) -> str:
    """The prefix of all objects of a kind."""
    return _join(POLICY_OBJECTS, ("kind", kind)) + "/"


def policy_fence(key: str) -> str:
    """The fence of an object: one of 16."""
    return f"{POLICY_FENCES}{crc32(key.encode()) & 0xF:x}"


def parse_policy_object(key: str) -> tuple[str, str, str]:
    """Kind, namespace (empty if cluster-wide) and name in an object's key."""
    kind, namespace, name = _split(POLICY_OBJECTS, key, 3)
    return kind, "" if namespace == CLUSTER else namespace, name


def profile(name: str) -> str:
    """The key of a profile."""
    return _join(POLICY_PROFILES, ("profile name", name))


def parse_profile(key: str) -> str:
    """The profile name in a key."""
    return _split(POLICY_PROFILES, key, 1)[0]
