"""Names of labels that Muslin derives, and the prefixes that nobody else may use.

An endpoint is selected by its *effective* labels: its own, and those that its namespace and its profiles hand down. If
a pod could carry a label of the second kind itself, it could choose whose policies let it in; so such labels are taken
off a pod's own, and a NetworkPolicy may not ask for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from muslin import selectors

NAMESPACE = selectors.NAMESPACE
"""Name of the endpoint's namespace."""
ORCHESTRATOR = "projectcalico.org/orchestrator"
"""`k8s`, or `cni` outside Kubernetes."""
SERVICE_ACCOUNT = "projectcalico.org/serviceaccount"
"""Name of the pod's service account."""
PROFILE_PREFIX = "projectcalico.org/profile."
"""With a profile's name: carried by every endpoint in it."""
NAMESPACE_PREFIX = "pcns."
"""Before each label of the endpoint's namespace."""
ACCOUNT_PREFIX = "pcsa."
"""Before each label of the endpoint's service account."""
OBJECT_NAME = "projectcalico.org/name"
"""Label that Calico has on every namespace and service account: its name."""
METADATA_NAME = "kubernetes.io/metadata.name"
"""Label that Kubernetes puts on every namespace: its name."""

LOG_DENIED = "muslin.dev/log-denied"
"""Annotation of a NetworkPolicy: `true` logs what is denied to the pods that it isolates."""

RESERVED_PREFIXES = ("projectcalico.org/", NAMESPACE_PREFIX, ACCOUNT_PREFIX, "k8s_ns/label/")
"""Derived labels begin with one of these: today's names, those of service accounts, and the old policy controller's."""
RESERVED_KEYS = frozenset({"calico/k8s_ns"})
"""Derived labels that have a name of their own."""


def reserved(key: str) -> bool:
    """Whether a label is derived, so that a pod can not have it as its own."""
    return key in RESERVED_KEYS or key.startswith(RESERVED_PREFIXES)


def own(labels: Mapping[str, str]) -> dict[str, str]:
    """A pod's labels without those that only Muslin may set."""
    return {key: value for key, value in labels.items() if not reserved(key)}
