"""Who may call what: one table of all methods. Pure.

A method that is not in the table is the operator's. Whoever is on a unix socket may do everything: its directory lets
in nobody but the service's own user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from muslin.rpc.identity import Caller, Role

__all__ = ["Rule", "RULES", "EVERYBODY", "refusal", "repeatable"]

EVERYBODY = frozenset(Role) - {Role.NOBODY}
_ALWAYS = frozenset({Role.LOCAL, Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for a method."""

    roles: frozenset[Role] = frozenset()
    """Who may call it, besides the operator and those on this host."""
    nodes: Callable[[Any], Iterable[str]] | None = None
    """The nodes that a request is about: a node may name itself only."""
    again: bool = False
    """Asking another replica does no harm where it is not known whether the first has done it."""


def _only(*roles: Role, nodes: Callable[[Any], Iterable[str]] | None = None, again: bool = False) -> Rule:
    return Rule(frozenset(roles), nodes, again)


def _named(request: Any) -> Iterable[str]:
    return (request.node,)


def _named_if_any(request: Any) -> Iterable[str]:
    return (request.node,) if request.node else ()


def _own_by_default(request: Any) -> Iterable[str]:
    return (request.name,) if request.name else ()


def _announced(request: Any) -> Iterable[str]:
    return (request.host.node,)


_VERB = _only(Role.NODE, again=True)  # each is idempotent by attachment
_VERBS = ("Add", "Del", "Check", "GC", "Status")

RULES: Mapping[str, Rule] = MappingProxyType({
    # Infrastructure. What a tunnel carries is judged call by call.
    "/grpc.health.v1.Health/Check": Rule(EVERYBODY),
    "/grpc.health.v1.Health/List": Rule(EVERYBODY),
    "/grpc.health.v1.Health/Watch": Rule(EVERYBODY),
    "/muslin.rpc.v1.Tunnel/Calls": Rule(EVERYBODY),
    # The chain: node daemons, for themselves. What is somebody else's by its attachment, the services refuse.
    **{f"/muslin.{service}.v1.Plugin/{verb}": _VERB for service in ("ipam", "endpoint", "policy") for verb in _VERBS},
    # A node's own records, and its program.
    "/muslin.endpoint.v1.Endpoints/Watch": _only(Role.NODE, Role.IPAM, Role.POLICY, nodes=_named),
    "/muslin.endpoint.v1.Endpoints/Restore": _only(Role.NODE, again=True),
    "/muslin.endpoint.v1.Endpoints/Delete": _only(Role.NODE, again=True),
    "/muslin.endpoint.v1.Endpoints/GetNode": _only(Role.NODE, nodes=_own_by_default, again=True),
    "/muslin.policy.v1.Programs/Subscribe": _only(Role.NODE, nodes=_named_if_any),
    # Where other nodes and their pods are.
    "/muslin.endpoint.v1.Endpoints/Announce": _only(Role.NODE, nodes=_announced),
    "/muslin.endpoint.v1.Endpoints/WatchHosts": _only(Role.NODE),
    "/muslin.ipam.v1.Ipam/WatchRoutes": _only(Role.NODE),
    # What services ask each other.
    "/muslin.endpoint.v1.Endpoints/Get": _only(Role.IPAM, again=True),
    "/muslin.endpoint.v1.Endpoints/GetPod": _only(Role.IPAM, again=True),
    "/muslin.endpoint.v1.Endpoints/ReportPod": _only(Role.IPAM, again=True),
    "/muslin.endpoint.v1.Endpoints/WatchInventory": _only(Role.IPAM, Role.POLICY),
    # The operator's. Named one by one, so that a new method is thought about.
    **dict.fromkeys((
        "/muslin.ipam.v1.Ipam/CreatePool", "/muslin.ipam.v1.Ipam/UpdatePool", "/muslin.ipam.v1.Ipam/ListPools",
        "/muslin.ipam.v1.Ipam/DeletePool", "/muslin.ipam.v1.Ipam/CreateReservation",
        "/muslin.ipam.v1.Ipam/ListReservations", "/muslin.ipam.v1.Ipam/DeleteReservation",
        "/muslin.ipam.v1.Ipam/GetConfig", "/muslin.ipam.v1.Ipam/SetConfig", "/muslin.ipam.v1.Ipam/Assign",
        "/muslin.ipam.v1.Ipam/Release", "/muslin.ipam.v1.Ipam/Batch", "/muslin.ipam.v1.Ipam/ListBlocks",
        "/muslin.ipam.v1.Ipam/ListHandles", "/muslin.ipam.v1.Ipam/Lookup", "/muslin.ipam.v1.Ipam/ReleaseAffinity",
        "/muslin.ipam.v1.Ipam/DrainNode", "/muslin.ipam.v1.Ipam/ListNodes",
        "/muslin.ipam.v1.Ipam/RemoveNode", "/muslin.ipam.v1.Ipam/Collect", "/muslin.ipam.v1.Ipam/Check",
        "/muslin.ipam.v1.Ipam/ReleaseReported", "/muslin.ipam.v1.Ipam/Rebuild",
        "/muslin.endpoint.v1.Endpoints/Create", "/muslin.endpoint.v1.Endpoints/List",
        "/muslin.endpoint.v1.Endpoints/UpdateLabels", "/muslin.endpoint.v1.Endpoints/ApplyPods",
        "/muslin.endpoint.v1.Endpoints/DeletePods", "/muslin.endpoint.v1.Endpoints/ListPods",
        "/muslin.endpoint.v1.Endpoints/ApplyNamespaces", "/muslin.endpoint.v1.Endpoints/DeleteNamespaces",
        "/muslin.endpoint.v1.Endpoints/ApplyNodes", "/muslin.endpoint.v1.Endpoints/DeleteNodes",
        "/muslin.policy.v1.Policies/Apply", "/muslin.policy.v1.Policies/Delete", "/muslin.policy.v1.Policies/List",
        "/muslin.policy.v1.Policies/Explain", "/muslin.policy.v1.Policies/GetStatus",
        "/muslin.node.v1.Node/GetStatus", "/muslin.node.v1.Node/GetCounters", "/muslin.node.v1.Node/GetFlows",
        "/muslin.node.v1.Node/Trace",
        *(f"/muslin.node.v1.Plugin/{verb}" for verb in _VERBS),
    ), Rule()),
})

_OPERATOR_ONLY = Rule()


def refusal(method: str, caller: Caller, *, passed_on: bool = False) -> str:
    """Why a caller may not call a method; empty if it may.

    What a service only passes on it sends under its own name, so of callers from elsewhere only the operator may use
    it.
    """
    if caller.role in _ALWAYS:
        return ""
    rule = _OPERATOR_ONLY if passed_on else RULES.get(method, _OPERATOR_ONLY)
    if caller.role in rule.roles:
        return ""
    allowed = sorted(role.value for role in (rule.roles | {Role.OPERATOR}) - {Role.LOCAL})
    who = f"the certificate of {caller.name}" if caller.name else "a caller without a certificate"
    return f"{who} does not allow {method}: it is for {', '.join(allowed)}"


def repeatable(method: str) -> bool:
    """Whether a method may be called again at another replica, its outcome at the first unknown."""
    return method in RULES and RULES[method].again
