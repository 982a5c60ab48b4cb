"""Cases that others wrote, as packets: every flow of every case, TCP, UDP and SCTP.

tests/unit/policy/test_outside_cases.py holds Explain against the same file, and says where it is to be found.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest

from tests.policy_judges.kernel import Kernel, kernel
from tests.support.oracle import Flow, Oracle, Pod, Port
from tests.unit.policy.cluster import namespace
from tests.unit.policy.test_outside_cases import load

pytestmark = pytest.mark.root

NETWORK = ipaddress.IPv4Address("192.168.1.0")
"""Before the addresses of the cases' pods."""
ENVELOPE = {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"}


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    return load()


@pytest.fixture(scope="module")
def judge(cases: list[dict[str, Any]]) -> Iterator[Kernel]:
    with kernel(max(len(step["pods"]) for case in cases for step in case["steps"]), NETWORK) as made:
        yield made


def test_packets_of_every_outside_case_arrive_as_expected(cases: list[dict[str, Any]], judge: Kernel) -> None:
    flows = 0
    found: list[str] = []
    for case in cases:
        for number, step in enumerate(case["steps"]):
            oracle = cluster(step)
            verdicts, told = expectations(step, oracle)
            judge.enforce(oracle.pods, (*map(space, step["namespaces"].items()), *oracle.policies))
            flows += len(verdicts)
            found += [f"case {case['case']} step {number} ({case['description']}): {difference}"
                      for difference in told + judge.differences(verdicts, oracle.address)]
    assert flows > 0
    assert not found, f"{len(found)} of {flows} flows differ: {found[:20]}"
    print(f"\n{flows} flows of {len(cases)} cases: 0 differences")  # noqa: T201  for people who look on


def space(item: tuple[str, dict[str, str]]) -> dict[str, Any]:
    return namespace(*item)


def cluster(step: dict[str, Any]) -> Oracle:
    """The cluster of a step. Updated policies stand there without kind and version."""
    pods = [Pod(pod["namespace"], pod["name"], pod["ip"], pod["labels"] or {},
                [Port(port["name"], port["protocol"], port["port"]) for port in pod["ports"]]) for pod in step["pods"]]
    return Oracle(pods, map(space, step["namespaces"].items()), [{**ENVELOPE, **policy} for policy in step["policies"]])


def expectations(step: dict[str, Any], oracle: Oracle) -> tuple[dict[Flow, bool], list[str]]:
    """Verdicts by flow, and where the documentation says otherwise of egress, ingress or both."""
    verdicts: dict[Flow, bool] = {}
    told = []
    for source, destination, protocol, port, *cells in step["expect"]:
        flow = Flow(source, destination, protocol, port)
        expected = tuple(cell == "." for cell in cells)
        verdicts[flow] = expected[2]
        if (read := (oracle.ingress(flow), oracle.egress(flow), oracle.allowed(flow))) != expected:
            told.append(f"{flow}: the documentation says {read}, and {expected} is expected")
    return verdicts, told
