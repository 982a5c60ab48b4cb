"""What `muslin policy status` shows of an answer of the policy service."""

from __future__ import annotations

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.ipam.table import Look
from muslin.cli.policy.status import shown

REF = policy_pb2.ObjectRef(kind="NetworkPolicy", namespace="shop", name="web")


def rows(status: policy_pb2.GetStatusResponse) -> list[list[str]]:
    """Cells of all lines; columns are two blanks apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in shown(status, Look()).splitlines()]


def test_nodes_with_their_lag() -> None:
    listed = rows(policy_pb2.GetStatusResponse(nodes=[
        policy_pb2.NodeStatus(node="n1", connected=True, connected_seconds=90.4, sent_revision=7,
                              acknowledged_revision=7, endpoints=3),
        policy_pb2.NodeStatus(node="n2", connected=True, connected_seconds=5, sent_revision=9, acknowledged_revision=7,
                              lag_seconds=1.26, pending=True, resumed=True),
        policy_pb2.NodeStatus(node="n3", endpoints=2)]))
    assert listed[1:4] == [["n1", "90 s", "none", "7", "7", "3"],
                           ["n2", "5 s (resumed)", "1.3 s, more waits", "9", "7", "0"],
                           ["n3", "no, or to another replica", "-", "-", "-", "2"]]
    assert listed[5] == ["no policy is stored"]


def test_policies_with_what_became_of_them() -> None:
    condition = policy_pb2.Condition(object=REF, path="spec.ingress[0]", message="dropped, because")
    status = policy_pb2.GetStatusResponse(policies=[
        policy_pb2.PolicyStatus(object=REF, origin="a.yaml, document 1", accepted=True, policy="default/x",
                                enforced_nodes=["n1", "n2", "n3", "n4"], pending_nodes=["n5"]),
        policy_pb2.PolicyStatus(object=REF, accepted=True, conditions=[condition]),
        policy_pb2.PolicyStatus(object=REF, accepted=False, policy="default/x"),
        policy_pb2.PolicyStatus(object=REF, accepted=False, policy="default/x", closed=True),
        policy_pb2.PolicyStatus(object=REF, accepted=False)])
    listed = rows(status)
    assert listed[0] == ["no node is subscribed here, and none has endpoints"]
    assert listed[3:8] == [["NetworkPolicy shop/web", "yes", "n1 n2 n3 and 1 more", "n5", "a.yaml, document 1"],
                           ["NetworkPolicy shop/web", "in part", "-", "-", "-"],
                           ["NetworkPolicy shop/web", "no, the version before is in force", "-", "-", "-"],
                           ["NetworkPolicy shop/web", "no, its pods are isolated", "-", "-", "-"],
                           ["NetworkPolicy shop/web", "no", "-", "-", "-"]]
    assert listed[9] == ["NetworkPolicy shop/web spec.ingress[0]: dropped, because"]
