"""Cases that others wrote, with the verdicts that they expect: our translation must agree on every flow.

The file is not part of the project. MUSLIN_NETPOL_CASES names it: one JSON object a line with `case`, `description`
and `steps`, each with `policies`, `namespaces`, `pods` and `expect`, rows of [from, to, protocol, port, ingress,
egress, combined] with "." for allowed and "X" for blocked.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.policy.model import PROTOCOLS, Direction, NamedPort
from tests.unit.policy.cluster import Cluster, Pod, namespace

VARIABLE = "MUSLIN_NETPOL_CASES"


def load() -> list[dict[str, Any]]:
    path = os.environ.get(VARIABLE)
    if not path:
        pytest.skip(f"SKIPPED: {VARIABLE} names no file of outside cases, so the translation is not compared with them")
    with gzip.open(Path(path), "rt") as lines:
        return [json.loads(line) for line in lines]


def differences(step: dict[str, Any]) -> list[str]:
    pods = [Pod(pod["namespace"], pod["name"], pod["ip"], pod["labels"] or {},
                tuple(NamedPort(p["name"], PROTOCOLS[p["protocol"]], p["port"]) for p in pod["ports"]),
                node=f"n{i % 3}")
            for i, pod in enumerate(step["pods"])]
    # Updated policies stand there without kind and version, as a client library would send them.
    envelope = {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1"}
    policies = [{**envelope, **policy} for policy in step["policies"]]
    cluster = Cluster(pods, [*(namespace(*item) for item in step["namespaces"].items()), *policies])
    found = []
    for source, destination, protocol, port, ingress, egress, combined in step["expect"]:
        got = (cluster.decide(source, destination, port, protocol, Direction.INGRESS).allowed,
               cluster.decide(source, destination, port, protocol, Direction.EGRESS).allowed,
               cluster.allowed(source, destination, port, protocol))
        expected = tuple(cell == "." for cell in (ingress, egress, combined))
        if expected != got:
            found.append(f"{source} -> {destination} {protocol}/{port}: expected {expected}, got {got}")
    return found


def test_every_flow_of_every_outside_case_is_decided_as_expected() -> None:
    flows = 0
    found: list[str] = []
    for case in load():
        for number, step in enumerate(case["steps"]):
            flows += len(step["expect"])
            found += [f"case {case['case']} step {number} ({case['description']}): {d}" for d in differences(step)]
    assert flows > 0
    assert found == [], f"{len(found)} of {flows} flows differ"
