"""`muslin policy` with everything real: what runs is asked, and answers as packets go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.support.arena import Arena, until

pytestmark = pytest.mark.root

SHOP = dedent("""\
    apiVersion: v1
    kind: Namespace
    metadata: {name: shop}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: web, namespace: shop, labels: {app: web}}
    spec: {containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: db, namespace: shop, labels: {app: db}}
    spec: {containers: [{name: c, image: x, ports: [{name: sql, containerPort: 5432}, {containerPort: 81}]}]}
    ---
    apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: db, namespace: shop}
    spec:
      podSelector: {matchLabels: {app: db}}
      ingress:
        - from:
            - podSelector: {matchLabels: {app: web}}
          ports:
            - {port: sql}
        - from:
            - ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16]}
    """)


class Machine(Arena):
    """A machine on which the shop is played."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state")
        self.file = folder / "shop.yaml"
        self.file.write_text(SHOP)
        self.probed: list[dict[str, Any]] = []

    def policy(self, *argv: str, code: int = 0) -> str:
        return self.muslin("policy", *argv, code=code)

    def shown(self, *argv: str, code: int = 0) -> Any:
        return json.loads(self.policy(*argv, "-o", "json", code=code))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Tests put back what they change."""
    made = Machine(tmp_path_factory.mktemp("cli"))
    try:
        made.up("--node", "node1")
        made.probed = json.loads(made.muslin("play", str(made.file), "--keep", "-o", "json"))["flows"]
        yield made
        made.muslin("down")
        assert made.left() == {}
    finally:
        made.close()


def test_explain_tells_the_line_of_what_is_in_force(machine: Machine) -> None:
    flow, = machine.shown("explain", "shop/web", "shop/db", "--port", "5432")["flows"]
    assert (flow["verdict"], [step["endpoint"] for step in flow["steps"]]) == ("allow", ["shop/web", "shop/db"])
    assert (flow["steps"][1]["file"], flow["steps"][1]["line"]) == (str(machine.file), 21)
    assert SHOP.splitlines()[20].strip() == "- from:"
    shown = machine.policy("explain", "shop/web", "shop/db", "--port", "81").splitlines()
    assert shown[0] == "shop/web -> shop/db  TCP 81: denied"
    assert shown[-3].split()[3:] == ["knp.default.shop.db", "(end", "of", "tier)", "deny", f"{machine.file}:15"]


def test_explain_of_ranges_and_all_ports(machine: Machine) -> None:
    """Addresses that no pod has are told apart as the policy does."""
    flows = machine.shown("explain", "10.8.0.0/15", "shop/db", "--proto", "tcp")["flows"]
    assert [(flow["from"], flow["ports"], flow["verdict"]) for flow in flows] == [
        (["10.8.0.0/16"], [{"protocol": "TCP", "first": 1, "last": 65535}], "allow"),
        (["10.9.0.0/16"], [{"protocol": "TCP", "first": 1, "last": 65535}], "deny")]
    flows = machine.shown("explain", "shop/web", "shop/db")["flows"]
    assert [flow["ports"] for flow in flows if flow["verdict"] == "allow"] == [
        [{"protocol": "TCP", "first": 5432, "last": 5432}]]


def test_the_matrix_is_as_packets_go(machine: Machine) -> None:
    found = machine.shown("matrix", "-n", "shop")["flows"]
    assert {(flow["from"], flow["to"], flow["port"]): flow["verdict"] for flow in found} == {
        (flow["from"], flow["to"], flow["port"]): flow["packets"].replace("allowed", "allow").replace("denied", "deny")
        for flow in machine.probed}
    assert len(found) == 3
    assert machine.policy("matrix", "-o", "svg").startswith("<svg ")


def test_a_file_that_has_changed_since_is_not_quoted(machine: Machine) -> None:
    machine.file.write_text(SHOP.replace("10.9.0.0/16", "10.8.0.0/16"))
    try:
        flow, = machine.shown("explain", "shop/web", "shop/db", "--port", "5432")["flows"]
        assert (flow["steps"][1]["file"], flow["steps"][1]["line"]) == (None, None)
        assert flow["steps"][1]["origin"] == f"{machine.file}, document 4"
    finally:
        machine.file.write_text(SHOP)


def test_lint_of_what_runs(machine: Machine) -> None:
    before = machine.shown("lint", "--live")["findings"]
    assert {item["check"] for item in before} == {"default-deny"}
    extra = machine.file.parent / "extra.yaml"
    extra.write_text("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: extra, namespace: shop}\n"
                     "spec:\n  podSelector: {matchLabels: {app: web}}\n  policyTypes: [Egress]\n  egress:\n"
                     "    - to: [{podSelector: {matchLabels: {app: nobody}}}]\n      ports: [{port: 1}]\n")
    machine.muslin("apply", "-f", str(extra))
    try:
        found = machine.shown("lint", "--live", code=3)["findings"]
        assert [(item["check"], item["path"], item["line"]) for item in found if item["file"] == str(extra)] == [
            ("dns", "", 1), ("matches-nothing", "spec.egress[0].to[0]", 8)]
    finally:
        machine.muslin("delete", "-f", str(extra))


def test_status_tells_where_a_policy_is_in_force(machine: Machine) -> None:
    """Nodes acknowledge after they have committed, so it may take a moment."""
    def enforced() -> bool:
        listed = machine.shown("status")["policies"]
        return [item["enforced_nodes"] for item in listed if item["object"]["name"] == "db"] == [["node1"]]
    until(enforced, 60)
    found = machine.shown("status")
    node, = found["nodes"]
    assert (node["node"], node["connected"], node["endpoints"]) == ("node1", True, 2)
    policy, = (item for item in found["policies"] if item["object"]["name"] == "db")
    assert (policy["accepted"], policy["origin"]) == (True, f"{machine.file}, document 4")
    table = machine.policy("status").splitlines()
    assert table[0].split()[0] == "NODE"
    assert any(line.split()[:4] == ["NetworkPolicy", "shop/db", "yes", "node1"] for line in table)


def test_names_of_pods_and_namespaces_are_completed(machine: Machine) -> None:
    def completed(words: str, number: int) -> list[str]:
        printed = machine.run("env", "_MUSLIN_COMPLETE=bash_complete", f"COMP_WORDS={words}", f"COMP_CWORD={number}",
                              *machine.muslin_command.split())
        return [line.partition(",")[2] for line in printed.splitlines()]
    assert completed("muslin policy explain shop/", 3) == ["shop/db", "shop/web"]
    assert completed("muslin policy matrix -n s", 4) == ["shop"]


def test_what_is_asked_wrongly_is_one_line(machine: Machine) -> None:
    for arguments, problem in ((("explain", "shop/none", "shop/db"), "there is no pod 'shop/none'"),
                               (("explain", "fd00::1", "shop/db"), "no addresses of one family"),
                               (("matrix", "-n", "none"), "no pod is selected")):
        message = machine.policy(*arguments, code=1)
        assert message.startswith("Error: ")
        assert problem in message
        assert message.count("\n") == 1
