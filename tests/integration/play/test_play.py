"""The three-tier example on real services: what it must allow, changes of policy, and what goes wrong in words."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from muslin.cli.play.flows import Flow, Packet, PlayedPort
from muslin.cli.play.probes import Route, probe
from tests.support.arena import ROOT, Arena

pytestmark = pytest.mark.root

EXAMPLE = "examples/three-tier"
GATEWAYS = {"web/gateway-1", "web/gateway-2"}
CATALOGS = {"app/catalog-1", "app/catalog-2"}
APP = {*CATALOGS, "app/orders", "app/worker"}
WEB = {*GATEWAYS, "web/assets"}
DATA = {"data/postgres", "data/redis", "data/queue", "data/dns", "data/caretaker"}


def allowed_by_reading() -> set[tuple[str, str, str]]:
    """Who reaches whom, worked out by hand from the manifests: (from, to, protocol/port)."""
    queuers, named = {"app/orders", "app/worker"}, DATA - {"data/caretaker"}  # the caretaker's egress has no DNS
    rules = [
        # gateways call the API of catalog and orders, and fetch static files; orders asks catalog
        (GATEWAYS, {*CATALOGS, "app/orders"}, ["TCP/9000"]),
        (GATEWAYS, {"web/assets"}, ["TCP/8081"]),
        ({"app/orders"}, CATALOGS, ["TCP/9000"]),
        # the caretaker reads figures and backs up the database
        ({"data/caretaker"}, {*CATALOGS, "app/worker"}, ["TCP/9090"]),
        ({"data/caretaker"}, {"app/orders"}, ["TCP/9100"]),
        ({"data/caretaker"}, {"data/postgres"}, ["TCP/5432"]),
        # the app tier: database for all, cache for all but jobs, queue for orders and worker
        (APP, {"data/postgres"}, ["TCP/5432"]),
        (APP - {"app/worker"}, {"data/redis"}, ["TCP/6379"]),
        (queuers, {"data/queue"}, ["TCP/5671", "TCP/5672"]),
        # names: by UDP for all, by TCP not for the web tier
        (WEB | APP | named, {"data/dns"}, ["UDP/53"]),
        (APP | named, {"data/dns"}, ["TCP/53"]),
    ]
    return {(one, two, port) for sources, targets, ports in rules
            for one in sources for two in targets for port in ports if one != two}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A machine with `muslin up` and the example kept on it, played with the article's configuration."""
    machine = Arena(tmp_path_factory.mktemp("state"))
    plugins = tmp_path_factory.mktemp("plugins")
    try:
        shutil.copy2(ROOT / "build/cni/muslin", plugins / "calico")
        machine.up("--node", "node-1")
        machine.muslin("play", EXAMPLE, "--conf", "examples/10-calico.conf", "--bin-dir", str(plugins), "--keep")
        yield machine
        machine.muslin("down")
        assert machine.left() == {}
    finally:
        machine.close()


def reached(machine: Arena) -> set[tuple[str, str, str]]:
    """What packets reach now; they must agree with Explain."""
    match = machine.json("probe")
    assert match["disagree"] == 0
    return {(flow["from"], flow["to"], f"{flow['protocol']}/{flow['port']}") for flow in match["flows"]
            if flow["packets"] == "allowed"}


def test_packets_reach_what_the_manifests_say(arena: Arena) -> None:
    """Packets and Explain could be wrong in the same way; this holds both against a reading by hand."""
    assert reached(arena) == allowed_by_reading()


def test_pods_are_namespaces_that_ip_netns_knows(arena: Arena) -> None:
    names = [line.split()[0] for line in arena.run("ip", "netns").splitlines()]
    assert len(names) == 12
    links = json.loads(arena.run("ip", "netns", "exec", "muslin-web.assets", "ip", "-j", "-4", "address"))
    assert {link["ifname"]: link["addr_info"][0]["prefixlen"] for link in links} == {"lo": 8, "eth0": 32}


def test_status_says_what_runs(arena: Arena) -> None:
    facts = arena.json("status")
    assert facts["healthy"]
    assert set(facts["services"].values()) == {"SERVING"}
    assert (facts["node"], facts["attachments"], facts["pods"]) == ("node-1", 12, 12)


def test_a_second_up_says_who_is_first(arena: Arena) -> None:
    for command in (["up", "--state", str(arena.state)], ["up", "--detach"], ["demo"]):
        words = arena.muslin(*command, code=1)
        assert "muslin is up already on /run/muslin (process " in words
        assert words.count("\n") == 1


POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: assets-for-catalog, namespace: web}
spec:
  podSelector: {matchLabels: {app: assets}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {tier: data}}}]}]
"""
LABELS = """
apiVersion: v1
kind: Pod
metadata: {name: redis, namespace: data, labels: {app: redis, scrape: "yes"}}
spec: {containers: [{name: redis, image: x, ports: [{containerPort: 6379}]}]}
"""


UNLABELLED = LABELS.replace(', scrape: "yes"', "")


@pytest.mark.parametrize(("text", "undo", "text_after", "added"), [
    (POLICY, "delete", POLICY, {(one, "web/assets", "TCP/8081") for one in DATA - {"data/caretaker"}}),
    (LABELS, "apply", UNLABELLED, {("data/redis", one, "TCP/9090") for one in (*CATALOGS, "app/worker")}
     | {("data/redis", "app/orders", "TCP/9100")}),
], ids=["policy", "label"])
def test_a_change_is_in_force_within_a_second(arena: Arena, tmp_path: Path, text: str, undo: str, text_after: str,
                                              added: set[tuple[str, str, str]]) -> None:
    """One flow is watched from before the command until a second after it; then the whole matrix is looked at."""
    file = tmp_path / "change.yaml"
    before = reached(arena)
    flow = sorted(added)[0]
    for command, content, open_after in (("apply", text, True), (undo, text_after, False)):
        file.write_text(content)
        assert passes(arena, flow) is not open_after
        arena.muslin(command, "-f", str(file))
        done = time.monotonic()
        while passes(arena, flow) is not open_after:
            assert time.monotonic() - done < 1.0, "more than a second after the command"
        assert reached(arena) == (before | added if open_after else before)


def passes(machine: Arena, wanted: tuple[str, str, str]) -> bool:
    """Send one TCP flow and say whether it passed within 0.2 s."""
    source, destination, port = wanted
    record = json.loads(next((machine.state / "plays").glob("*.json")).read_bytes())
    address = {f"{pod['sandbox']['namespace']}/{pod['sandbox']['pod']}": pod["address"] for pod in record["pods"]}
    flow = Flow(source, destination, PlayedPort("TCP", int(port.removeprefix("TCP/"))))
    route = Route(flow, str(machine.namespace(f"muslin-{source.replace('/', '.')}")), address[destination])
    return probe([route], 0.2)[flow].packet is Packet.PASSED


def test_explain_names_policy_rule_and_origin(arena: Arena) -> None:
    words = arena.muslin("explain", "web/gateway-1", "data/redis", "--port", "6379")
    assert words.startswith("web/gateway-1 -> data/redis port 6379/TCP: denied\n  egress of web/gateway-1: denied: ")
    words = arena.muslin("explain", "app/orders", "data/queue", "--port", "5672", "--proto", "tcp")
    assert ": allowed\n" in words
    assert "examples/three-tier/30-data.yaml, document 9" in words


def test_what_is_played_can_not_be_played_again(arena: Arena) -> None:
    words = arena.muslin("play", EXAMPLE, code=1)
    assert "pod app/catalog-1 is played already; remove it with" in words
    assert arena.json("status")["pods"] == 12


EXTRA = """
apiVersion: v1
kind: Pod
metadata: {name: extra, namespace: data}
spec: {containers: [{name: c, image: x, ports: [{containerPort: 7}]}]}
"""


def test_a_second_play_beside_a_kept_one(arena: Arena, tmp_path: Path) -> None:
    """In a namespace of the first; `muslin delete` of its pod ends it and leaves the first alone."""
    file = tmp_path / "extra.yaml"
    file.write_text(EXTRA)
    arena.muslin("play", str(file), "--keep")
    match = arena.json("probe")
    assert (len(match["pods"]), match["disagree"]) == (13, 0)
    arena.muslin("delete", "-f", str(file))
    assert "muslin-data.extra" not in arena.run("ip", "netns")
    assert len(arena.json("probe")["pods"]) == 12


@pytest.mark.parametrize(("text", "message"), [
    (POLICY + "---\nkind: Pod\n  bad", "document 2, line"),
    (POLICY.replace("podSelector", "podSelektor"), "spec.podSelektor: unknown field; did you mean podSelector?"),
    (POLICY.replace("namespace: web", "namespace: nowhere"), "namespace 'nowhere', which is not declared"),
    (POLICY + "---" + POLICY, "is there already"),
])
def test_of_what_is_wrong_nothing_is_applied(arena: Arena, tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    for command in (("apply", "-f"), ("play",)):
        words = arena.muslin(*command, str(file), code=1)
        assert f"{file}, document" in words
        assert message in words
        assert words.count("\n") == 1, "one line"
    assert "is not there" in arena.muslin("delete", "-f", str(_valid(tmp_path)))


def _valid(folder: Path) -> Path:
    file = folder / "good.yaml"
    file.write_text(POLICY)
    return file


def test_a_namespace_in_use_is_not_deleted(arena: Arena, tmp_path: Path) -> None:
    file = tmp_path / "namespace.yaml"
    file.write_text("{apiVersion: v1, kind: Namespace, metadata: {name: web}}")
    assert "Namespace web still holds NetworkPolicy" in arena.muslin("delete", "-f", str(file), code=1)
