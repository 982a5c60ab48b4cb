"""Whether a certificate signing request is a node's, and which node's. Pure.

What the request itself says counts for nothing. The API server says which service account made it and, since the token
is bound to a pod, which pod; where that pod runs is the node. A kubelet gets such tokens only for pods that are bound
to its own node (NodeRestriction), so a node gets certificates for itself only.
"""

from __future__ import annotations

from dataclasses import dataclass

from muslin.cli.cluster import names
from muslin.kube.installed import Placed, Request

__all__ = ["Refused", "node_of", "pod_of"]

_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
"""Extra fields of a user whose token is bound to a pod (Kubernetes documentation, "Managing Service Accounts")."""
_USAGES = {"digital signature", "client auth"}
_NODE_MOST = 59
"""Characters: a common name has 64 at most, and begins with `node:`."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why it is not signed, for people."""

    reason: str


def pod_of(request: Request, namespace: str) -> str | Refused:
    """Name of the pod, in our namespace, by which the request was made."""
    who = f"system:serviceaccount:{namespace}:{names.ACCOUNT}"
    if request.spec.username != who:
        return Refused(f"made by {request.spec.username or 'nobody'}, not by {who}")
    if extra := set(request.spec.usages or ()) - _USAGES:
        return Refused(f"asks for usages that a node has no use for: {', '.join(sorted(extra))}")
    pods, uids = ((request.spec.extra or {}).get(key) or [] for key in (_POD_NAME, _POD_UID))
    if len(pods) != 1 or len(uids) != 1:
        return Refused("made with a token that is not bound to a pod: use a projected one")
    return pods[0]


def node_of(request: Request, pod: Placed | None) -> str | Refused:
    """The node on which the pod runs; `pod` is what the API server has under the name that pod_of() gave."""
    uids = (request.spec.extra or {}).get(_POD_UID) or []
    if pod is None or [pod.uid] != uids:
        return Refused("the pod that made it is gone")
    if pod.service_account != names.ACCOUNT:
        return Refused(f"its pod runs as {pod.service_account}, not as {names.ACCOUNT}")
    if not pod.node:
        return Refused("its pod has no node")
    if len(pod.node) > _NODE_MOST:
        return Refused(f"the node's name has more than {_NODE_MOST} characters, and does not fit into a certificate")
    return pod.node
