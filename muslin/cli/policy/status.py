"""`muslin policy status`: how far nodes lag, and what has become of each object. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.ipam.table import Column, Look, table

__all__ = ["shown"]

_NODES = (Column("NODE", shrink=True), Column("CONNECTED"), Column("LAG"), Column("SENT", right=True),
          Column("IN KERNEL", right=True), Column("ENDPOINTS", right=True))
_POLICIES = (Column("OBJECT", shrink=True, least=24), Column("ACCEPTED"), Column("IN FORCE ON"),
             Column("WAITING", shrink=True), Column("WRITTEN IN", shrink=True, spare=True))
MOST_NAMED = 3
"""Nodes that a line names."""


def shown(status: policy_pb2.GetStatusResponse, look: Look) -> str:
    """Nodes, then objects, then what there is to say about objects."""
    nodes = table(_NODES, [_node(node) for node in status.nodes], look)
    policies = table(_POLICIES, [_policy(policy) for policy in status.policies], look)
    said = [f"{_name(policy.object)}{f' {condition.path}' if condition.path else ''}: {condition.message}"
            for policy in status.policies for condition in policy.conditions]
    blocks = [nodes if status.nodes else "no node is subscribed here, and none has endpoints",
              policies if status.policies else "no policy is stored", "\n".join(said)]
    return "\n\n".join(block for block in blocks if block)


def _node(node: policy_pb2.NodeStatus) -> tuple[str, ...]:
    if not node.connected:
        return node.node, "no, or to another replica", "-", "-", "-", str(node.endpoints)
    lag = f"{node.lag_seconds:.1f} s" if node.lag_seconds else "none"
    return (node.node, f"{node.connected_seconds:.0f} s{' (resumed)' if node.resumed else ''}",
            f"{lag}, more waits" if node.pending else lag, str(node.sent_revision), str(node.acknowledged_revision),
            str(node.endpoints))


def _policy(policy: policy_pb2.PolicyStatus) -> tuple[str, ...]:
    return (_name(policy.object), _accepted(policy), _named(policy.enforced_nodes) or "-",
            _named(policy.pending_nodes) or "-", policy.origin or "-")


def _accepted(policy: policy_pb2.PolicyStatus) -> str:
    if policy.accepted:
        return "in part" if policy.conditions else "yes"
    if policy.closed:
        return "no, its pods are isolated"
    return "no, the version before is in force" if policy.policy else "no"


def _name(ref: policy_pb2.ObjectRef) -> str:
    return f"{ref.kind} {ref.namespace}/{ref.name}" if ref.namespace else f"{ref.kind} {ref.name}"


def _named(nodes: Sequence[str]) -> str:
    listed = " ".join(nodes[:MOST_NAMED])
    return listed if len(nodes) <= MOST_NAMED else f"{listed} and {len(nodes) - MOST_NAMED} more"
