"""What the manifests and the processes in a cluster call things; tests/unit/deploy holds both together."""

from __future__ import annotations

__all__ = ["ACCOUNT", "AUTHORITY", "CA", "DAEMON_SET", "ETCD", "ETCD_NODES", "NAMESPACE", "SIGNER", "member",
           "service", "secret"]

NAMESPACE = "muslin-system"
ACCOUNT = "muslin-node"
"""Service account of the nodes' pods: whom the authority gives certificates of nodes."""
SIGNER = "muslin.dev/node"
"""The signer that nodes' certificate signing requests name."""
AUTHORITY = "muslin-authority"
"""Secret with the authority's key, which nothing but the authority itself reads."""
CA = "muslin-ca"
"""ConfigMap with the authorities that are trusted."""
DAEMON_SET = "muslin-node"
ETCD = "muslin-etcd"
"""Its members' StatefulSets and services are called so, with a number."""
ETCD_NODES = "muslin-etcd-nodes"
"""ConfigMap that says on which node the data of each member lie."""


def member(number: int) -> str:
    """The StatefulSet, and the service, of a member of etcd."""
    return f"{ETCD}-{number}"


def service(name: str) -> str:
    """Of `ipam`, `endpoint`, `policy`."""
    return f"muslin-{name}"


def secret(name: str) -> str:
    """That holds the certificate called so."""
    return f"muslin-{name}"
