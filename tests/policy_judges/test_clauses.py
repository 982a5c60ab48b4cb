"""Clause by clause of the documentation: verdicts worked out by hand, and all judges held to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.policy_judges.clusters import OUTSIDE, RandomCluster, explained
from tests.policy_judges.kernel import Kernel, kernel
from tests.support.oracle import Pod, Port
from tests.unit.policy.cluster import namespace, network_policy

pytestmark = pytest.mark.root

SPACES = "xyz"
ADDRESSES = {f"{space}/{name}": f"192.168.7.{1 + 3 * i + j}"
             for i, space in enumerate(SPACES) for j, name in enumerate("abc")}
DECLARED = {"a": [Port("web", "TCP", 80), Port("dns", "UDP", 53)], "b": [Port("web", "TCP", 81)], "c": []}


class Question(NamedTuple):
    """A flow, as predicates read it. `source` is `x/a`, or an address outside; `s` and `d` are the namespaces."""

    source: str
    destination: str
    protocol: str
    port: int

    @property
    def s(self) -> str:
        return self.source[0]

    @property
    def d(self) -> str:
        return self.destination[0]

    @property
    def to(self) -> str:
        """Protocol and port."""
        return f"{self.protocol}/{self.port}"


Rule = dict[str, Any]
A, B = {"matchLabels": {"pod": "a"}}, {"matchLabels": {"pod": "b"}}
SPACE_Y = {"matchLabels": {"ns": "y"}}


def x(*specs: Rule) -> list[Rule]:
    """Policies of namespace x."""
    return [network_policy("x", f"p{i}", {"podSelector": {}, **spec}) for i, spec in enumerate(specs)]


def into_a(*rules: Rule) -> list[Rule]:
    """A policy on ingress of x/a."""
    return x({"podSelector": A, "ingress": list(rules)})


def only(allowed: Callable[[Question], bool]) -> Callable[[Question], bool]:
    """What passes if x/a lets in nothing else."""
    return lambda q: q.destination != "x/a" or allowed(q)


CLAUSES: dict[str, tuple[list[Rule], Callable[[Question], bool]]] = {
    "no policy": ([], lambda q: True),
    "deny all ingress": (x({"policyTypes": ["Ingress"]}), lambda q: q.d != "x"),
    "deny all egress": (x({"policyTypes": ["Egress"]}), lambda q: q.s != "x"),
    "deny all": (x({"policyTypes": ["Ingress", "Egress"]}), lambda q: "x" not in (q.s, q.d)),
    "types default to ingress": (x({}), lambda q: q.d != "x"),
    "no egress rules are no egress": (x({"egress": []}), lambda q: q.d != "x"),
    "egress rules make it both": (x({"egress": [{"to": [{"podSelector": B}]}]}),
                                  lambda q: q.d != "x" and q.s != "x"),
    "rules of a direction that is not named": (
        x({"policyTypes": ["Ingress"], "egress": [{"to": [{"podSelector": B}]}]}), lambda q: q.d != "x"),
    "an empty rule allows all": (into_a({}), lambda q: True),
    "empty peers and ports allow all": (into_a({"from": [], "ports": []}), lambda q: True),
    "pods of the same namespace": (into_a({"from": [{"podSelector": B}]}), only(lambda q: q.source == "x/b")),
    "all pods of the same namespace": (into_a({"from": [{"podSelector": {}}]}), only(lambda q: q.s == "x")),
    "all pods of some namespaces": (into_a({"from": [{"namespaceSelector": SPACE_Y}]}), only(lambda q: q.s == "y")),
    "all pods of all namespaces": (into_a({"from": [{"namespaceSelector": {}}]}), only(lambda q: q.s in SPACES)),
    "a namespace by its name": (
        into_a({"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "z"}}}]}),
        only(lambda q: q.s == "z")),
    "pods of namespaces, as one peer": (into_a({"from": [{"namespaceSelector": SPACE_Y, "podSelector": B}]}),
                                        only(lambda q: q.source == "y/b")),
    "pods or namespaces, as two peers": (into_a({"from": [{"namespaceSelector": SPACE_Y}, {"podSelector": B}]}),
                                         only(lambda q: q.s == "y" or q.source == "x/b")),
    "a lacking label is not in": (
        into_a({"from": [{"podSelector": {"matchExpressions": [
            {"key": "odd", "operator": "NotIn", "values": ["b"]}]}}]}),
        only(lambda q: q.source == "x/c")),
    "a block with an exception": (
        into_a({"from": [{"ipBlock": {"cidr": "192.168.7.5/29", "except": ["192.168.7.4/32"]}}]}),
        only(lambda q: q.source in ("x/a", "x/b", "x/c", "y/b", "y/c", "z/a"))),
    "a block with exceptions apart from each other": (
        into_a({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.168.7.2/32", "192.168.7.8/31",
                                                                      "203.0.113.0/24"]}}]}),
        only(lambda q: q.source not in ("x/b", "z/b", "z/c", OUTSIDE[0]))),
    "two blocks, one with an exception that the other allows": (
        into_a({"from": [{"ipBlock": {"cidr": "192.168.7.0/28", "except": ["192.168.7.4/30"]}},
                         {"ipBlock": {"cidr": "192.168.7.5/32"}}]}),
        only(lambda q: q.source in ("x/b", "x/c", "y/b", "z/b", "z/c"))),
    "a block outside": (into_a({"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}),
                        only(lambda q: q.source == OUTSIDE[0])),
    "everything outside the pods": (
        into_a({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16"]}}]}),
        only(lambda q: q.source in OUTSIDE)),
    "a port is of TCP": (into_a({"ports": [{"port": 80}]}), only(lambda q: q.to == "TCP/80")),
    "all ports of a protocol": (into_a({"ports": [{"protocol": "UDP"}]}), only(lambda q: q.protocol == "UDP")),
    "a port of SCTP": (into_a({"ports": [{"protocol": "SCTP", "port": 80}]}), only(lambda q: q.to == "SCTP/80")),
    "a range of ports": (into_a({"ports": [{"port": 60, "endPort": 81}]}),
                         only(lambda q: q.to in ("TCP/80", "TCP/81"))),
    "peers and ports": (into_a({"from": [{"podSelector": B}], "ports": [{"port": 80}]}),
                        only(lambda q: q.source == "x/b" and q.to == "TCP/80")),
    "a named port": (x({"ingress": [{"ports": [{"port": "web"}]}]}),
                     lambda q: q.d != "x" or (q.destination, q.to) in (("x/a", "TCP/80"), ("x/b", "TCP/81"))),
    "a named port of UDP": (x({"ingress": [{"ports": [{"port": "dns", "protocol": "UDP"}]}]}),
                            lambda q: q.d != "x" or (q.destination, q.to) == ("x/a", "UDP/53")),
    "a named port of another protocol": (x({"ingress": [{"ports": [{"port": "dns"}]}]}), lambda q: q.d != "x"),
    "a named port where traffic goes": (
        x({"policyTypes": ["Egress"], "egress": [
            {"to": [{"namespaceSelector": SPACE_Y}], "ports": [{"port": "web"}]}]}),
        lambda q: q.s != "x" or (q.destination, q.to) in (("y/a", "TCP/80"), ("y/b", "TCP/81"))),
    "egress to a block": (
        x({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": "198.51.100.7/32"}}]}]}),
        lambda q: q.s != "x" or q.destination == OUTSIDE[1]),
    "egress to a block with exceptions": (
        x({"policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {
            "cidr": "192.168.7.0/24", "except": ["192.168.7.4/32", "192.168.7.7/32"]}}]}]}),
        lambda q: q.s != "x" or q.destination not in ("y/a", "z/a", *OUTSIDE)),
    "policies add up": (x({"podSelector": A, "ingress": [{"from": [{"namespaceSelector": SPACE_Y}]}]},
                          {"podSelector": A, "ingress": [{"ports": [{"port": 81}]}]}, {"podSelector": A}),
                        only(lambda q: q.s == "y" or q.to == "TCP/81")),
    "both sides must allow": (
        x({"podSelector": A, "ingress": [{"from": [{"podSelector": B}]}]},
          {"podSelector": B, "policyTypes": ["Egress"], "egress": [{"ports": [{"port": 53, "protocol": "UDP"}]}]}),
        lambda q: ((q.destination != "x/a" or q.source == "x/b") and (q.source != "x/b" or q.to == "UDP/53"))),
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Kernel]:
    with kernel(len(ADDRESSES)) as made:
        yield made


def cluster(policies: list[Rule]) -> RandomCluster:
    """Three namespaces of three pods each; of x, a and b have a label that c has not."""
    pods = []
    for key, address in ADDRESSES.items():
        space, _, name = key.partition("/")
        labels = {"pod": name} if key == "x/c" else {"pod": name, "odd": "b"}
        pods.append(Pod(space, name, address, labels, DECLARED[name]))
    return RandomCluster(tuple(pods), tuple(namespace(space, {"ns": space}) for space in SPACES), tuple(policies))


@pytest.mark.parametrize("clause", CLAUSES)
def test_every_judge_reads_the_clause_as_a_reader_does(judge: Kernel, clause: str) -> None:
    policies, allowed = CLAUSES[clause]
    made = cluster(policies)
    judge.enforce(made.pods, (*made.namespaces, *made.policies))
    oracle, compiled = made.oracle(), made.compiled()
    verdicts = {flow: allowed(Question(flow.source, flow.destination, flow.protocol, flow.port))
                for flow in made.flows() if flow.port in (53, 80, 81)}
    assert [str(flow) for flow, verdict in verdicts.items() if oracle.allowed(flow) != verdict] == []
    assert [str(flow) for flow, verdict in verdicts.items() if explained(compiled, flow) != verdict] == []
    assert judge.differences(verdicts, oracle.address) == []
