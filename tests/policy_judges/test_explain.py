"""Two judges of random clusters: the documentation, read directly, and Explain, which evaluates compiled programs."""

from __future__ import annotations

from tests.policy_judges.budget import seeds
from tests.policy_judges.clusters import Maker, RandomCluster, explained, shrunk

ADDRESSES = tuple(f"192.168.7.{number}" for number in range(1, 25))


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
    total = open_ = 0
    for seed in seeds(few=6):
        flows, passed, difference = judged(Maker(seed).cluster(ADDRESSES))
        assert not difference, f"seed {seed}: {difference}"
        total, open_ = total + flows, open_ + passed
    print(f"\n{total} flows of seeds {seeds(few=6)}: {open_} pass, 0 differences")  # noqa: T201  for people who look on
    # A judge who always says yes, or no, would agree too easily.
    assert 0.1 < open_ / total < 0.9
