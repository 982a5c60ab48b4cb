"""The matrix as text and as JSON, from findings."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.cli.play.flows import (
    Answer,
    Finding,
    Flow,
    Observation,
    Packet,
    PlayedPort,
    Totals,
    flows_between,
    judge,
)
from muslin.cli.play.matrix import Style, as_json, render, summary

WEB, DNS, DNS_UDP = PlayedPort("TCP", 80), PlayedPort("TCP", 53), PlayedPort("UDP", 53)
PORTS = {"a/one": [WEB], "a/two": [DNS_UDP, DNS], "b/three": []}
PASSED, LOST = Observation(Packet.PASSED), Observation(Packet.LOST, "timed out")
YES, NO = Answer(True, "a rule allows"), Answer(False, "default-deny isolates")


def findings(seen: dict[Flow, Observation], said: dict[Flow, Answer]) -> list[Finding]:
    everything = flows_between(PORTS)
    return judge({flow: seen.get(flow, LOST) for flow in everything}, {flow: said.get(flow, NO) for flow in everything})


def test_flows_are_all_ordered_pairs_with_each_port_of_the_receiver() -> None:
    assert flows_between(PORTS) == [
        Flow("a/one", "a/two", DNS_UDP), Flow("a/one", "a/two", DNS), Flow("a/two", "a/one", WEB),
        Flow("b/three", "a/one", WEB), Flow("b/three", "a/two", DNS_UDP), Flow("b/three", "a/two", DNS)]


def test_rows_are_senders_and_cells_have_a_mark_for_each_port() -> None:
    flow = Flow("b/three", "a/two", DNS)
    text = render(PORTS, findings({flow: PASSED}, {flow: YES}), Style())
    assert text.splitlines() == [
        "  from     ports      1  2  to",
        "1 a/one    80         ·  ✗✗",
        "2 a/two    53/udp 53  ✗  ·",
        "3 b/three             ✗  ✗✓",
        "",
        "✓ allowed   ✗ denied",
    ]


def test_a_disagreement_stands_out_and_is_named_before_the_totals() -> None:
    hole, cut = Flow("a/one", "a/two", DNS), Flow("a/two", "a/one", WEB)
    found = findings({hole: PASSED}, {cut: YES})
    assert "2 a/two    53/udp 53  !  ·" in render(PORTS, found, Style())
    assert summary(found).splitlines() == [
        "disagreement: a/one -> a/two port 53/TCP: packets allowed, Explain says denied: default-deny isolates",
        "disagreement: a/two -> a/one port 80/TCP: packets denied (timed out), Explain says allowed: a rule allows",
        "6 flows probed, 1 allowed, 5 denied, 2 disagree with Explain",
    ]


def test_what_broke_disagrees_whatever_explain_says() -> None:
    broken = Observation(Packet.BROKEN, "connection refused")
    for said in (YES, NO):
        found = [Finding(Flow("a/one", "a/two", DNS), broken, said)]
        assert not found[0].agree
        assert summary(found).endswith("1 flows probed, 0 allowed, 0 denied, 1 broken, 1 disagree with Explain")


def test_sctp_is_shown_as_explained_and_not_counted_as_probed() -> None:
    ports = {"a/one": [PlayedPort("SCTP", 5)], "a/two": []}
    [flow] = flows_between(ports)
    found = judge({}, {flow: YES})
    assert render(ports, found, Style()).splitlines()[2] == "2 a/two          a"
    assert summary(found).splitlines() == [
        "1 SCTP flows are shown as Explain has them; they are not probed",
        "0 flows probed, 0 allowed, 0 denied, 0 disagree with Explain"]


def test_ascii_and_colour() -> None:
    found = findings({}, {})
    assert render(PORTS, found, Style(unicode=False)).isascii()
    coloured = render(PORTS, found, Style(colour=True))
    assert "\033[31m✗\033[0m" in coloured
    assert re.sub(r"\033\[[0-9;]*m", "", coloured) == render(PORTS, found, Style())


def test_json_has_every_flow_and_the_totals() -> None:
    flow = Flow("a/two", "a/one", WEB)
    document = as_json(PORTS, findings({flow: PASSED}, {flow: YES}))
    assert (document["probed"], document["allowed"], document["denied"], document["disagree"]) == (6, 1, 5, 0)
    assert isinstance(document["flows"], list)
    assert document["flows"][2] == {
        "from": "a/two", "to": "a/one", "protocol": "TCP", "port": 80, "packets": "allowed", "detail": "",
        "explain": "allowed", "reason": "a rule allows", "agree": True}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,9}/[a-z]{1,9}", fullmatch=True),
                       st.lists(st.builds(PlayedPort, st.sampled_from(["TCP", "UDP"]), st.integers(1, 65535)),
                                max_size=3, unique=True), max_size=14),
       st.randoms(use_true_random=False), st.sampled_from([0, 40, 80]))
def test_every_flow_has_its_mark_in_every_layout(ports: dict[str, list[PlayedPort]], random: Random,
                                                 width: int) -> None:
    outcomes = {flow: Observation(random.choice([Packet.PASSED, Packet.LOST])) for flow in flows_between(ports)}
    found = judge(outcomes, {flow: Answer(seen.packet is Packet.PASSED, "") for flow, seen in outcomes.items()})
    *body, _ = render(ports, found, Style(width=width)).split("\n")
    drawn = "".join(line for line in body if not line.lstrip().startswith("from"))
    totals = Totals.of(found)
    assert (drawn.count("✓"), drawn.count("✗")) == (totals.allowed, totals.denied)
    assert drawn.count("·") == sum(bool(listed) for listed in ports.values())


@pytest.mark.parametrize("width", [60, 100])
def test_a_wide_matrix_is_cut_to_the_terminal(width: int) -> None:
    ports = {f"ns/pod-{number}": [WEB] for number in range(40)}
    flows = flows_between(ports)
    text = render(ports, judge(dict.fromkeys(flows, PASSED), dict.fromkeys(flows, YES)), Style(width=width))
    assert max(map(len, text.splitlines())) <= width
    assert text.count("✓") == 40 * 39 + 1  # and once in the legend
