"""The third judge of random clusters: packets through the kernel, of TCP, UDP and SCTP."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.policy_judges.budget import seeds
from tests.policy_judges.clusters import Maker, RandomCluster, explained
from tests.policy_judges.kernel import Kernel, kernel

pytestmark = pytest.mark.root

PODS = 20
OTHERWISE = "connections are judged otherwise"


@pytest.fixture(scope="module")
def judge() -> Iterator[Kernel]:
    with kernel(PODS) as made:
        yield made


def test_packets_and_explain_agree_with_the_documentation_on_random_clusters(judge: Kernel) -> None:
    """Those of odd seeds are asked over IPv4, the others over IPv6; pods have both."""
    total = 0
    for seed in seeds(few=3):
        cluster = Maker(seed).cluster(judge.addresses if seed % 2 else judge.addresses_6)
        began = time.perf_counter()
        total += three_judges(judge, cluster, f"seed {seed}")
        print(f"\nseed {seed}: {time.perf_counter() - began:.1f} s", end="")  # noqa: T201  for people who look on
    print(f"\n{total} flows of seeds {seeds(few=3)}: 0 differences between documentation, Explain and packets")  # noqa: T201


def three_judges(judge: Kernel, cluster: RandomCluster, name: str) -> int:
    """How many flows all agree on."""
    judge.enforce(cluster.pods, (*cluster.namespaces, *cluster.policies))
    oracle, compiled = cluster.oracle(), cluster.compiled()
    verdicts = {flow: oracle.allowed(flow) for flow in cluster.flows()}
    told = [f"{flow}: Explain says otherwise" for flow, verdict in verdicts.items()
            if explained(compiled, flow) != verdict]
    different = told + judge.differences(verdicts, oracle.address)
    assert not different, (f"{name}: {len(different)} of {len(verdicts)} flows differ: {different[:20]}\n"
                           f"{cluster.policies}")
    return len(verdicts)


def test_the_judge_sees_what_passes_and_what_does_not(judge: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets are held against the wrong cluster: the differences are those between the two, each way."""
    cluster = Maker(1).cluster(judge.addresses)
    bare = replace(cluster, policies=())
    oracle = cluster.oracle()
    verdicts = {flow: oracle.allowed(flow) for flow in cluster.flows()
                if cluster.pods[0].key in (flow.source, flow.destination)}
    closed = [flow for flow, verdict in verdicts.items() if not verdict]
    assert 0 < len(closed) < len(verdicts)
    judge.enforce(bare.pods, bare.namespaces)
    assert set(judge.differences(verdicts, oracle.address)) == {
        f"{flow}: {what}" for flow in closed for what in ("should not pass, and does", OTHERWISE)}
    judge.enforce(cluster.pods, (*cluster.namespaces, *cluster.policies))
    monkeypatch.setattr(judge.prober, "patience", 0.1)  # they never come
    assert set(judge.differences(dict.fromkeys(verdicts, True), oracle.address)) == {
        f"{flow}: {what}" for flow in closed for what in ("should pass, and does not", OTHERWISE)}
