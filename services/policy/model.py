"""The resources that policy is made of, in Calico's terms: values without behaviour.

Kubernetes objects are translated into these (`translate`); these are compiled into programs (`compile`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from muslin.selectors import Selector

NAMESPACE_PROFILE_PREFIX = "k8s_ns."
"""With a namespace's name: the profile of its pods."""
ACCOUNT_PROFILE_PREFIX = "serviceaccount/"
"""With namespace and name of a service account: the profile that hands its labels to its pods. No network can be
called so, since its name has no slash."""


class Action(Enum):
    """What a rule does with what it matches."""

    ALLOW = "allow"
    """Final: let through."""
    DENY = "deny"
    """Final: drop."""
    PASS = "pass"  # noqa: S105  an action, not a password
    """Go on to the next tier, or to the profiles after the last."""
    LOG = "log"
    """Log and go on with the next rule."""


class Direction(Enum):
    """As seen from an endpoint."""

    INGRESS = "ingress"
    EGRESS = "egress"


PROTOCOLS: Mapping[str, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""Protocols with ports that Kubernetes names, and their numbers (IANA)."""


class PortRange(NamedTuple):
    """Ports from first to last, both inclusive."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Matches when every part that is set matches.

    The peer is the source of ingress and the destination of egress; ports are always those of the destination. A
    port matches that is in one of `ports` or that the destination gives one of `port_names` (of this protocol).
    """

    action: Action
    path: str = ""
    """Of the rule in the object it came from, such as `spec.ingress[0]`."""
    protocol: int = 0
    """IP protocol number; 0 for any. Set wherever ports are."""
    peer: Selector | None = None
    nets: tuple[str, ...] = ()
    """CIDRs of one address family, one of which holds the peer."""
    not_nets: tuple[str, ...] = ()
    """CIDRs, none of which holds the peer."""
    ports: tuple[PortRange, ...] = ()
    port_names: tuple[str, ...] = ()


TIER_PREFIX = "tier:"


@dataclass(frozen=True, slots=True)
class Tier:
    """Policies that are evaluated together. Tiers are in order of (order, name)."""

    name: str
    order: float
    default_action: Action = Action.DENY
    """What happens at its end to what none of its policies decided: Deny, or Pass."""
    origin: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """Unique among resources: ids of policies and profiles have a slash."""
        return TIER_PREFIX + self.name


DEFAULT_TIER = Tier("default", 1_000_000)
"""Where Kubernetes' policies are."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for the endpoints it selects. Policies of a tier are in order of (order, name)."""

    name: str
    selector: Selector
    directions: frozenset[Direction]
    """Directions that it isolates: there, what no rule decides is dropped at the end of the tier."""
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    tier: Tier = DEFAULT_TIER
    """Counts for as long as no tier of its name is declared."""
    order: float = 1000
    origin: str = ""
    """Where it came from, for people: `file.yaml, document 2`."""
    log_denied: bool = False
    """Whether to log what the end of the tier drops at the endpoints that it isolates."""

    @property
    def id(self) -> str:
        """Unique among policies and profiles."""
        return f"{self.tier.name}/{self.name}"


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules for endpoints that no policy isolates in a direction, and labels for all endpoints in it."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    origin: str = ""

    @property
    def id(self) -> str:
        """Unique among policies and profiles."""
        return profile_id(self.name)


Resource: TypeAlias = Policy | Profile | Tier
"""What objects are translated into."""


def profile_id(name: str) -> str:
    """What a profile is called in programs."""
    return f"profile/{name}"


def account_profile(namespace: str, name: str) -> str:
    """Name of the profile of a service account."""
    return f"{ACCOUNT_PROFILE_PREFIX}{namespace}/{name}"


class Attachment(NamedTuple):
    """Identity of an endpoint: one interface of one container on one network."""

    network: str
    container_id: str
    ifname: str


class NamedPort(NamedTuple):
    """A port that policies can refer to by name."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What policy needs to know of a workload endpoint."""

    attachment: Attachment
    node: str
    interface: str
    """Name of the host end of its veth."""
    workload: str
    """`namespace/name` of the pod, or the workload outside Kubernetes; for people and for `explain`."""
    namespace: str = ""
    orchestrator: str = "k8s"
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Its own; derived ones among them do not count."""
    addresses: tuple[str, ...] = ()
    """In canonical form, without prefix length."""
    profiles: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()
    revision: int = 0
    """Of the last change; of two endpoints of one pod the younger is the pod's."""


