"""Random clusters: the compiled programs decide every flow as a direct reading of the documentation does."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings

from tests.support.oracle import Flow, Oracle
from tests.support.oracle import Pod as OraclePod
from tests.support.oracle import Port as OraclePort
from tests.unit.policy.cluster import Cluster, Pod
from tests.unit.policy.strategies import OUTSIDE, PODS, PORTS, PROTOCOLS, clusters

SIDES = (*("/".join(pod) for pod in PODS), *OUTSIDE)
NAMES = {6: "TCP", 17: "UDP", 132: "SCTP"}


def plain(pod: Pod) -> OraclePod:
    """The same pod as the oracle knows it."""
    return OraclePod(pod.namespace, pod.name, pod.address, pod.labels,
                     [OraclePort(port.name, NAMES[port.protocol], port.port) for port in pod.ports])


@settings(max_examples=150, deadline=None)
@given(clusters())
def test_explain_agrees_with_the_documentation(
        cluster: tuple[list[Pod], list[dict[str, Any]], list[dict[str, Any]]]) -> None:
    pods, namespaces, policies = cluster
    compiled, oracle = Cluster(pods, [*namespaces, *policies]), Oracle(map(plain, pods), namespaces, policies)
    for source, destination, port, protocol in itertools.product(SIDES, SIDES, PORTS, PROTOCOLS):
        if source in OUTSIDE and destination in OUTSIDE:
            continue
        flow = (source, destination, port, protocol)
        expected = oracle.allowed(Flow(source, destination, protocol, port))
        assert expected == compiled.allowed(*flow), (flow, compiled.explain(*flow))
