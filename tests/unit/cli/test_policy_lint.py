"""`muslin policy lint`: each kind of mistake is found where it is, and what is right is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from tests.unit.cli.policy_world import SHOP, muslin, write

EXAMPLE = Path(__file__).parents[3] / "examples/three-tier"
CLOSED = """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""


def policy(spec: str, name: str = "p") -> str:
    return (f"---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\n"
            f"spec:\n{indent(spec, '  ')}\n")


def found(folder: Path, text: str, code: int = 3) -> list[tuple[str, str, str, str]]:
    """Severity, check, path, and the text of the line that is named."""
    file = write(folder, text)
    listed: list[dict[str, Any]] = json.loads(muslin("lint", file, "-o", "json", code=code))["findings"]
    assert all(item["file"] == file for item in listed)
    lines = text.splitlines()
    return [(item["severity"], item["check"], item["path"], lines[item["line"] - 1].strip()) for item in listed]


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    text = SHOP + CLOSED + policy("podSelector: {}\negress: [{ports: [{protocol: UDP, port: 53}, {port: 53}]}]")
    text += policy("podSelector: {matchLabels: {app: db}}\ningress: [{ports: [{protocol: UDP, port: 53}, {port: 53}]}]",
                   "q")
    assert found(tmp_path, text, code=0) == []
    assert muslin("lint", write(tmp_path, text)) == "0 errors, 0 warnings, 0 info\n"


def test_a_namespace_without_default_deny_is_information(tmp_path: Path) -> None:
    text = SHOP.replace("{port: sql}", "{port: sql}\n        - {port: 53, protocol: UDP}\n        - {port: 53}")
    lines = muslin("lint", write(tmp_path, text)).splitlines()
    assert lines[0] == (f"{tmp_path}/shop.yaml, document 1, line 1, column 1: info: Namespace shop: no policy selects "
                        "all its pods for ingress and egress: what no other policy selects is open there "
                        "[default-deny]")
    assert lines[1:] == ["0 errors, 0 warnings, 1 info"]
    half = policy("podSelector: {}")
    assert "all its pods for egress: " in muslin("lint", write(tmp_path, text + half))


def test_a_shadowed_rule(tmp_path: Path) -> None:
    """In its policy, or by another of all its pods; part of a rule that others say is not enough."""
    text = SHOP + CLOSED + policy("""\
podSelector: {matchLabels: {app: web}}
ingress:
  - from: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 10.1.0.0/16}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchLabels: {app: db}}}]
    ports: [{port: 80}]
  - from: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: 80}]
""") + policy("""\
podSelector: {matchExpressions: [{key: app, operator: In, values: [web]}]}
ingress:
  - from: [{ipBlock: {cidr: 10.1.2.0/24}}]
    ports: [{port: 80}]
""", "q")
    shadowed = [item for item in found(tmp_path, text) if item[1] == "shadowed"]
    assert shadowed == [
        ("warning", "shadowed", "spec.ingress[1]", "- from: [{podSelector: {matchLabels: {app: db}}}]"),
        ("warning", "shadowed", "spec.ingress[0]", "- from: [{ipBlock: {cidr: 10.1.2.0/24}}]")]
    shown = muslin("lint", write(tmp_path, text), code=3)
    assert "decided before by spec.ingress[0] of the same policy; remove one" in shown
    assert "decided before by spec.ingress[0] of NetworkPolicy shop/p; remove one" in shown


def test_selectors_and_ports_that_match_nothing(tmp_path: Path) -> None:
    text = SHOP + CLOSED + policy("""\
podSelector: {matchLabels: {app: none}}
ingress:
  - from:
      - podSelector: {matchLabels: {app: web}}
      - podSelector: {matchLabels: {app: nobody}}
""") + policy("""\
podSelector: {matchLabels: {app: db}}
ingress:
  - from:
      - namespaceSelector: {matchLabels: {team: x}}
    ports: [{port: sql}, {port: nosuch}]
""", "q")
    nothing = [item for item in found(tmp_path, text) if item[1] == "matches-nothing"]
    assert nothing == [
        ("warning", "matches-nothing", "spec.podSelector", "podSelector: {matchLabels: {app: none}}"),
        ("warning", "matches-nothing", "spec.ingress[0].from[1]", "- podSelector: {matchLabels: {app: nobody}}"),
        ("warning", "matches-nothing", "spec.ingress[0]", "- from:"),
        ("warning", "matches-nothing", "spec.ingress[0].from[0]", "- namespaceSelector: {matchLabels: {team: x}}")]


def test_pods_that_can_not_ask_the_name_server(tmp_path: Path) -> None:
    """The only name server is shop/db; TCP alone is information."""
    closed = [item for item in found(tmp_path, SHOP + CLOSED) if item[1] == "dns"]
    assert closed == [("warning", "dns", "", "apiVersion: networking.k8s.io/v1")]
    opened = policy("podSelector: {}\negress: [{ports: [{protocol: UDP, port: 53}]}]\n"
                    "ingress: [{ports: [{protocol: UDP, port: 53}]}]")
    only_tcp = [item for item in found(tmp_path, SHOP + CLOSED + opened, code=0) if item[1] == "dns"]
    assert only_tcp == [("info", "dns", "", "apiVersion: networking.k8s.io/v1")]
    shown = muslin("lint", write(tmp_path, SHOP + CLOSED + opened))
    assert "keeps shop/web from every known name server over TCP" in shown


@pytest.mark.parametrize(("egress", "what"), [
    ("[{ports: [{port: 443}]}]", "over UDP and TCP"), ("[{ports: [{port: 1, endPort: 60}]}]", "over UDP"),
    ("[{ports: [{port: 53, protocol: UDP}]}]", "over TCP"), ("[{}]", ""), ("[{ports: [{port: dns}]}]", "over UDP"),
    ("[{to: [{ipBlock: {cidr: 10.0.0.0/8}}]}]", ""), ("[]", "over UDP and TCP"),
])
@pytest.mark.parametrize("pods", [True, False])
def test_without_a_known_name_server_rules_tell(egress: str, what: str, pods: bool, tmp_path: Path) -> None:
    """With pods that are declared, and with none."""
    head = SHOP.split("---\n")[0] + "---\n" + SHOP.split("---\n")[1] if pods else SHOP.split("---\n")[0]
    text = head + policy(f"podSelector: {{matchLabels: {{app: web}}}}\npolicyTypes: [Egress]\negress: {egress}")
    shown = muslin("lint", write(tmp_path, text), code=3 if "UDP" in what else 0)
    dns = [line for line in shown.splitlines() if "[dns]" in line]
    assert [line.partition(" has port 53 ")[2] for line in dns] == ([f"{what} [dns]"] if what else [])
    assert ("no Pod is declared" in shown) is not pods


def test_what_is_refused_or_left_out_is_found_and_the_rest_is_judged(tmp_path: Path) -> None:
    text = SHOP + CLOSED + policy("podSelector: {}\ningress: [{ports: [{port: 9, endPort: 8}]}]") + policy(
        "podSelector: {}\ningress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]", "q")
    listed = found(tmp_path, text)
    assert [item for item in listed if item[0] == "error"] == [
        ("error", "refused", "spec.ingress[0].ports[0].endPort", "ingress: [{ports: [{port: 9, endPort: 8}]}]")]
    assert [item[0] for item in listed if item[1] == "not-enforced"] == ["warning", "warning"]
    assert [item[0] for item in listed if item[1] == "dns"] == ["warning"]


def test_the_example_is_as_it_is_said_to_be() -> None:
    listed = json.loads(muslin("lint", str(EXAMPLE), "-o", "json", code=3))["findings"]
    assert [(item["severity"], item["check"], item["object"]) for item in listed] == [
        ("info", "default-deny", "Namespace data"), ("info", "dns", "NetworkPolicy web/default-deny"),
        ("warning", "dns", "NetworkPolicy data/caretaker-out")]


def test_usage(tmp_path: Path) -> None:
    assert "name FILEs, or say --live" in muslin("lint", code=2)
    assert "name FILEs, or say --live" in muslin("lint", "--live", write(tmp_path), code=2)
    assert "line 2, column 3: not valid YAML" in muslin("lint", write(tmp_path, "a: b\n c: [\n"), code=1)
