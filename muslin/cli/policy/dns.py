"""Policies that keep pods from asking for names. Pure.

Where name servers are known, whole flows to them are judged, by the engine. Where none is known, rules are read: a pod
is taken to be able to ask if any rule lets port 53 out, to whomever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.policy.engine import Endpoint, Judge, selected
from muslin.cli.policy.lint import Finding, Read, Severity
from muslin.cli.policy.shadow import implies
from muslin.cli.policy.world import Declared, World
from services.policy.model import Action, Direction, Policy, Rule

__all__ = ["by_pods", "by_rules"]

PORT = 53
PROTOCOLS = {"UDP": 17, "TCP": 6}
"""Names are asked for over UDP, and over TCP where the answer is long (RFC 7766)."""
SERVER_LABEL = "k8s-app", "kube-dns"
"""What a cluster's name servers carry, whatever they are called."""
MOST_NAMED = 5
"""Pods that one finding names."""

Denials = dict[str, policy_pb2.Step]
"""By pod: what decided against the first of the name servers, where all were denied."""


def by_pods(read: Read) -> Iterator[Finding]:
    """What keeps pods from all of the name servers; where none is known, from asking anybody."""
    pods = {f"{record.namespace}/{record.pod}": record for record in read.world.endpoints
            if record.pod and record.addresses}
    servers = [name for name, record in pods.items() if _serves(read.world, name, record)]
    if not servers:
        yield from _by_rules_on_pods(read)
        return
    judge = Judge(read.world)
    cut: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for protocol in PROTOCOLS:
        for pod, step in _denied(pods, servers, protocol, judge).items():
            cut.setdefault((step.tier, step.policy, step.rule), {}).setdefault(pod, set()).add(protocol)
    for (tier, policy, path), cut_off in cut.items():
        if owner := read.world.owner(policy, tier):
            for protocols in ({"UDP", "TCP"}, {"UDP"}, {"TCP"}):
                if listed := [pod for pod, its in cut_off.items() if its == protocols]:
                    yield _finding(owner, path, f"keeps {_named(listed)} from every known name server", protocols)


def _denied(pods: Mapping[str, Endpoint], servers: Sequence[str], protocol: str, judge: Judge) -> Denials:
    """The pods that reach none of the servers that share an address family with them."""
    pairs = [(pod, server) for pod in pods for server in servers
             if pod != server and _families(pods[pod]) & _families(pods[server])]
    answers = judge.answers([policy_pb2.Flow(
        source=policy_pb2.Peer(pod=pod), destination=policy_pb2.Peer(pod=server), protocol=protocol, port=PORT)
        for pod, server in pairs])
    found: Denials = {}
    reached = {pod for (pod, _), answer in zip(pairs, answers, strict=True)
               if answer.verdict == policy_pb2.VERDICT_ALLOW}
    for (pod, _), answer in zip(pairs, answers, strict=True):
        if pod not in reached:
            found.setdefault(pod, answer.steps[-1])
    return found


def _serves(world: World, name: str, record: Endpoint) -> bool:
    key, value = SERVER_LABEL
    ports = {(port.protocol, port.port) for port in world.ports.get(name, ())}
    ports |= {(port.protocol, port.port) for port in record.ports}
    return record.labels.get(key) == value or ("UDP", PORT) in ports


def _families(record: Endpoint) -> set[bool]:
    return {":" in address for address in record.addresses}


def by_rules(read: Read) -> Iterator[Finding]:
    """Policies whose pods may ask nobody, unless a policy opens it that selects others than those: no pod is known."""
    egress = [(item, policy) for item, policy in read.policies if Direction.EGRESS in policy.directions]
    for item, policy in egress:
        if shut := _shut(other for _, other in egress if implies(policy.selector, other.selector)):
            yield _finding(item, "", "no egress rule for its pods has port 53", shut)


def _by_rules_on_pods(read: Read) -> Iterator[Finding]:
    """The same for the pods that there are, with all policies that select each."""
    egress = [(item, policy) for item, policy in read.policies if Direction.EGRESS in policy.directions]
    members = selected(read.world, [policy.selector for _, policy in egress])
    told: set[tuple[tuple[str, str, str], frozenset[str]]] = set()
    for record in read.world.endpoints:
        mine = [written for written, pods in zip(egress, members, strict=True)
                if record.attachment.container_id in pods]
        shut = _shut(policy for _, policy in mine)
        if mine and shut and (mine[0][0].key, shut) not in told:
            told.add((mine[0][0].key, shut))
            yield _finding(mine[0][0], "", f"{record.namespace}/{record.pod} is isolated, and no egress rule for it "
                           "has port 53", shut)


def _shut(policies: Iterable[Policy]) -> frozenset[str]:
    """The protocols over which none of these policies lets a question for names out."""
    rules = [rule for policy in policies for rule in policy.egress]
    return frozenset(protocol for protocol, number in PROTOCOLS.items()
                     if not any(_may_ask(rule, number) for rule in rules))


def _may_ask(rule: Rule, protocol: int) -> bool:
    """Whether a rule may let a question out, to whomever. What the name of a port stands for is not known."""
    return (rule.action in (Action.ALLOW, Action.PASS) and rule.protocol in (0, protocol)
            and (bool(rule.port_names) or not rule.ports or any(low <= PORT <= high for low, high in rule.ports)))


def _finding(item: Declared, path: str, what: str, protocols: Iterable[str]) -> Finding:
    """Without UDP hardly any name is found; without TCP only long answers are lost."""
    listed = sorted(protocols, reverse=True)
    severity = Severity.WARNING if "UDP" in listed else Severity.INFO
    return Finding(severity, "dns", item, path, f"{what} over {' and '.join(listed)}")


def _named(pods: Sequence[str]) -> str:
    listed = ", ".join(pods[:MOST_NAMED])
    return listed if len(pods) <= MOST_NAMED else f"{listed} and {len(pods) - MOST_NAMED} more pods"
