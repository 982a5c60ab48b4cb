"""Two judges of random clusters: the documentation, read directly, and Explain, which evaluates compiled programs."""

from __future__ import annotations

from tests.policy_judges.budget import seeds
from tests.policy_judges.clusters import Maker, RandomCluster, explained, shrunk

ADDRESSES = tuple(f"192.168.7.{number}" for number in range(1, 25))
ADDRESSES_6 = tuple(f"fd00:7::{number:x}" for number in range(1, 25))


def judged(cluster: RandomCluster) -> tuple[int, int, str]:
    """Flows, how many of them pass, and the first difference, if there is one, with as little as shows it."""
    oracle, compiled = cluster.oracle(), cluster.compiled()
    flows = passed = 0
    for flow in cluster.flows():
        flows += 1
        expected = oracle.allowed(flow)
        passed += expected
        if explained(compiled, flow) != expected:
            small = shrunk(cluster, flow)
            said = small.compiled().explain(flow.source, flow.destination, flow.port, flow.protocol)
            return flows, passed, (f"{flow}: the documentation says {expected}, Explain {said}\n"
                                   f"{small.pods}\n{small.namespaces}\n{small.policies}")
    return flows, passed, ""


def test_explain_agrees_with_the_documentation_on_random_clusters() -> None:
    """Clusters of odd seeds have IPv4 addresses, the others IPv6."""
    total = open_ = 0
    for seed in seeds(few=4):
        flows, passed, difference = judged(Maker(seed).cluster(ADDRESSES if seed % 2 else ADDRESSES_6))
        assert not difference, f"seed {seed}: {difference}"
        total, open_ = total + flows, open_ + passed
    print(f"\n{total} flows of seeds {seeds(few=4)}: {open_} pass, 0 differences")  # noqa: T201  for people who look on


def test_random_clusters_are_neither_open_nor_shut() -> None:
    """Judges who always say yes, or no, would agree too easily."""
    verdicts = [cluster.oracle().allowed(flow) for cluster in (Maker(seed).cluster(ADDRESSES) for seed in range(1, 11))
                for flow in list(cluster.flows())[::50]]
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.8
