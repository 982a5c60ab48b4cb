"""`muslin policy explain -f`: the path of a flow with file and line, and many flows at once without a mistake."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.main import cli
from muslin.cli.policy.engine import Judge
from muslin.cli.policy.explaining import Answer, Asked, answers
from muslin.cli.policy.space import Space
from muslin.cli.policy.world import World, of_manifest
from muslin.errors import Exhausted, InvalidArgument
from muslin.kube.manifest import Manifest, load, parse
from tests.unit.cli.policy_world import SHOP, muslin, write


def world(text: str = SHOP, *pools: str) -> World:
    manifest = Manifest(tuple(parse(text, "shop.yaml")))
    return of_manifest(manifest, pools) if pools else of_manifest(manifest)


def test_a_flow_has_its_path_with_file_and_line(tmp_path: Path) -> None:
    file = write(tmp_path)
    lines = muslin("explain", "shop/web", "shop/db", "--port", "5432", "-f", file).splitlines()
    assert lines[0] == "shop/web -> shop/db  TCP 5432: allowed"
    assert lines[1].split() == ["ENDPOINT", "DIRECTION", "TIER", "POLICY", "RULE", "VERDICT", "WRITTEN", "AT"]
    assert lines[2].split() == ["shop/web", "egress", "-", "k8s_ns.shop", "egress[0]", "allow", f"{file}:1"]
    assert lines[3].split() == ["shop/db", "ingress", "default", "knp.default.shop.db", "spec.ingress[0]", "allow",
                                f"{file}:24"]
    assert "allows TCP port 5432 from 192.168.0.1" in lines[5]
    assert SHOP.splitlines()[23].strip() == "- from:"


def test_for_programs(tmp_path: Path) -> None:
    file = write(tmp_path)
    flow, = json.loads(muslin("explain", "10.9.1.1", "shop/db", "--port", "5432", "-f", file, "-o", "json"))["flows"]
    assert flow["from"] == ["10.9.1.1"]
    assert flow["to"] == ["shop/db"]
    assert flow["ports"] == [{"protocol": "TCP", "first": 5432, "last": 5432}]
    assert flow["verdict"] == "deny"
    step, = flow["steps"]
    assert (step["object"], step["file"], step["line"], step["rule"]) == ("NetworkPolicy shop/db", file, 18, "")
    assert "no rule matches" in step["reason"]


def test_a_cidr_is_answered_in_as_few_ranges_as_there_are_decisions(tmp_path: Path) -> None:
    shown = muslin("explain", "10.8.0.0/15", "shop/db", "--port", "5440", "-f", write(tmp_path))
    assert [line for line in shown.splitlines() if " -> " in line] == [
        "10.8.0.0/16 -> shop/db  TCP 5440: allowed", "10.9.0.0/16 -> shop/db  TCP 5440: denied"]


def test_without_a_port_all_ports_of_all_protocols_are_answered(tmp_path: Path) -> None:
    shown = muslin("explain", "10.0.0.1", "shop/db", "-f", write(tmp_path))
    assert [line for line in shown.splitlines() if " -> " in line] == [
        "10.0.0.1 -> shop/db  TCP 1-5431 5441-65535, UDP all, SCTP all: denied",
        "10.0.0.1 -> shop/db  TCP 5432-5440: allowed"]


def test_an_address_of_a_pod_is_the_pod_in_either_family(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert "shop/web -> shop/db  TCP 5432: allowed" in muslin(
        "explain", "192.168.0.1", "10.1.0.7", "--port", "5432", "-f", file)
    assert "2001:db8::1 -> shop/db  TCP 5432: denied" in muslin(
        "explain", "2001:db8::1", "fd00::7", "--port", "5432", "-f", file)


@pytest.mark.parametrize(("arguments", "problem"), [
    (["shop/none", "shop/db"], "FROM: there is no pod 'shop/none'"),
    (["shop/web", "x"], "TO 'x' is neither NAMESPACE/POD nor an IP address nor a CIDR"),
    (["10.0.0.1", "fd00::7"], "no addresses of one family"),
    (["shop/web", "shop/db", "--pool", "10.0.0.0/99"], "pool: "),
    (["shop/web", "shop/db", "--pool", "10.0.0.0/32"], "no address for every pod"),
])
def test_what_is_wrong_is_one_line(arguments: list[str], problem: str, tmp_path: Path) -> None:
    message = muslin("explain", *arguments, "-f", write(tmp_path), code=1)
    assert message.startswith("Error: ")
    assert problem in message


def test_an_object_that_the_service_would_refuse_is_named_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP.replace("endPort: 5440", "endPort: 5000"))
    message = muslin("explain", "shop/web", "shop/db", "-f", file, code=1)
    assert message.startswith(f"Error: {file}, document 4, line 31, column 24: NetworkPolicy shop/db: "
                              "spec.ingress[1].ports[0].endPort: "), message


def test_all_objects_that_the_service_would_refuse_are_named_before_it_is_asked(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By apply and play alike: nothing runs here, and that is not what is complained of."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    bad = """
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: all}
spec: {selector: a == b}
"""
    file = write(tmp_path, SHOP.replace("endPort: 5440", "endPort: 5000") + "---" + bad)
    for command in ("apply", "play"):
        arguments = [command, *(["-f"] if command == "apply" else []), file, "--run-dir", str(tmp_path)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 1
        lines = result.output.splitlines()
        assert lines[0].startswith(f"Error: {file}, document 4, line 31, column 24: NetworkPolicy shop/db: "
                                   "spec.ingress[1].ports[0].endPort: ")
        assert lines[1].startswith(f"{file}, document 5, line 36, column 8: GlobalNetworkPolicy all: spec.selector: "
                                   "selector, column 6: expected a value in quotes")
        assert len(lines) == 2


def test_a_pool_is_for_manifests() -> None:
    assert "name them with -f" in muslin("explain", "a/b", "c/d", "--pool", "10.0.0.0/8", code=2)


def test_pods_of_manifests_have_the_addresses_of_their_status_or_the_next_of_the_pool() -> None:
    found = world(SHOP, "10.1.0.4/30", "fd01::/64")
    assert {record.pod: list(record.addresses) for record in found.endpoints} == {
        "web": ["10.1.0.5", "fd01::1"], "db": ["10.1.0.7", "fd00::7"]}
    with pytest.raises(Exhausted):
        world(SHOP, "10.1.0.7/32")
    with pytest.raises(InvalidArgument, match=r"line \d+: status.podIPs"):
        world(SHOP.replace("10.1.0.7", "10.1.0"))


def test_two_families_are_told_apart_where_they_are_decided_otherwise(tmp_path: Path) -> None:
    """Of pods with both, each is asked about; a block is of one."""
    text = SHOP.replace("10.0.0.0/8, except: [10.9.0.0/16]", "192.168.0.0/16")
    asked = ["explain", "shop/web", "shop/db", "--port", "5440", "-f", write(tmp_path, text),
             "--pool", "192.168.0.0/24", "--pool", "fd00:1::/64"]
    assert [line for line in muslin(*asked).splitlines() if " -> " in line] == [
        "shop/web -> shop/db  TCP 5440 over IPv4: allowed", "shop/web -> shop/db  TCP 5440 over IPv6: denied"]
    asked[4] = "5432"  # by name, whatever the family
    assert muslin(*asked).startswith("shop/web -> shop/db  TCP 5432: allowed\n")
    flow, = json.loads(muslin(*asked, "-o", "json"))["flows"]
    assert flow["families"] == [4, 6]


CALICO = """\
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: security}
spec: {order: 10}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: baseline}
spec:
  tier: security
  order: 1
  types: [Ingress]
  ingress:
    - action: Deny
      protocol: TCP
      destination: {ports: ["5000:5433"]}
    - action: Pass
"""


def test_tiers_of_calico_come_first_and_have_their_lines(tmp_path: Path) -> None:
    file = write(tmp_path, SHOP + CALICO)
    lines = (SHOP + CALICO).splitlines()
    flows = json.loads(muslin("explain", "10.0.0.1", "shop/db", "--proto", "tcp", "-f", file, "-o", "json"))["flows"]
    decided = {(ports["first"], ports["last"]): flow["steps"][-1] for flow in flows for ports in flow["ports"]}
    assert decided.keys() == {(1, 4999), (5000, 5433), (5434, 5440), (5441, 65535)}
    step = decided[5000, 5433]
    assert (step["tier"], step["object"], step["rule"]) == ("security", "GlobalNetworkPolicy baseline",
                                                           "spec.ingress[0]")
    assert lines[step["line"] - 1].strip() == "- action: Deny"
    assert decided[5434, 5440]["object"] == "NetworkPolicy shop/db"


BLOCKS = st.sampled_from(["10.0.0.0/8", "10.128.0.0/9", "10.1.0.0/24", "10.1.0.7/32", "0.0.0.0/0", "192.168.0.0/16"])
PORTS = st.one_of(st.integers(1, 65535).map(lambda port: {"port": port}),
                  st.tuples(st.integers(1, 65535), st.integers(0, 2000)).map(
                      lambda both: {"port": both[0], "endPort": min(65535, sum(both))}),
                  st.just({"port": "sql"}))
RULES = st.lists(st.fixed_dictionaries({}, optional={
    "from": st.lists(BLOCKS.map(lambda cidr: {"ipBlock": {"cidr": cidr}}), min_size=1, max_size=2),
    "ports": st.lists(PORTS, min_size=1, max_size=2)}), max_size=3)


@settings(max_examples=40, deadline=None)
@given(RULES, st.integers(0, 2**32 - 1), st.integers(1, 65535), st.data())
async def test_every_flow_is_in_exactly_one_answer_and_decided_as_that_says(
        rules: list[object], number: int, port: int, data: st.DataObject) -> None:
    """Pieces stand for all that is in them: whatever flow is picked, by itself it is decided as its answer says."""
    head, _, _ = SHOP.rpartition("spec:\n  podSelector")
    judged = world(head + "spec: " + json.dumps({"podSelector": {}, "ingress": rules}))
    judge = Judge(judged)
    found = await answers(Asked("0.0.0.0/0", "shop/db"), Space(judged), judge.explain)
    edges = [edge for answer in found for piece in answer.sources for edge in (piece.first, piece.last)]
    source = data.draw(st.sampled_from([number, *edges]))
    for protocol in ("TCP", "UDP", "SCTP"):
        holding = [answer for answer in found if holds(answer, source, protocol, port)]
        assert len(holding) == 1
        alone, = judge.answers([policy_pb2.Flow(
            source=policy_pb2.Peer(address=str(ipaddress.IPv4Address(source))),
            destination=policy_pb2.Peer(pod="shop/db"), protocol=protocol, port=port)])
        assert holding[0].explanation.verdict == alone.verdict
        assert [step.rule for step in holding[0].explanation.steps] == [step.rule for step in alone.steps]


def holds(answer: Answer, source: int, protocol: str, port: int) -> bool:
    return (any(piece.first <= source <= piece.last for piece in answer.sources)
            and any(span.protocol == protocol and span.first <= port <= span.last for span in answer.spans))


async def test_the_example_is_decided_as_its_readme_says() -> None:
    example = of_manifest(load([str(Path(__file__).parents[3] / "examples/three-tier")]))
    found = await answers(Asked("data/caretaker", "app/worker", protocol="TCP"), Space(example),
                          Judge(example).explain)
    allowed = [answer.flows for answer in found if answer.explanation.verdict == policy_pb2.VERDICT_ALLOW]
    assert allowed == ["data/caretaker -> app/worker  TCP 9090"]
