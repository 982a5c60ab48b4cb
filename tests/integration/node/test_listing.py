"""What nft(8) prints of a table is what was meant: our encoding read by somebody else's decoder."""

from __future__ import annotations

import ipaddress
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace

import pytest

from muslin.netns import path_of
from services.node import actual
from services.node.attachment import Attachment
from services.node.enforce import table
from services.node.enforce.drops import LOOSE_SETS
from services.node.enforce.names import (
    Direction,
    Reason,
    drop_chain,
    group_set,
    policy_cause,
    policy_chain,
    reason_cause,
    reason_chain,
    stage_cause,
    stage_chain,
    variant_chain,
)
from services.node.enforce.parts import Stage
from services.node.enforce.program import Action, Endpoint, Kind, Policy, Rule, Update
from services.node.enforce.state import Claim, State, applied
from services.node.errors import KernelError
from services.node.nft import expressions as x
from services.node.nft import messages as m
from services.node.nft.connection import Nftables
from tests.integration.node.world import group
from tests.support.netns import command, namespace

pytestmark = pytest.mark.root


def dropping(direction: Direction, cause: bytes, comment: str, indent: str = "\t\t") -> str:
    """The rules by which a cause drops, as nft(8) prints them."""
    word = "iifname" if direction is Direction.EGRESS else "oifname"
    # nft(8) prints marks as numbers of this machine's byte order.
    marks = " . ".join(f"0x{int.from_bytes(cause[at:at + 4], sys.byteorder):08x}" for at in (0, 4))
    return (f'{indent}{word} @watched limit rate 50/second burst 100 packets log prefix "{cause.hex()}" group 28021 '
            f"snaplen 96\n{indent}add @drops {{ {word} . {marks} counter }}\n"
            f'{indent}counter packets 0 bytes 0 drop comment "{comment}"')


def reason(direction: Direction, which: Reason) -> str:
    """A chain of the frame that drops."""
    rules = dropping(direction, reason_cause(direction, which), which.value)
    return f"\tchain {reason_chain(direction, which)} {{\n{rules}\n\t}}\n"


FRAME = """
	map from_pod {
		type ifname : verdict%s
	}

	map to_pod {
		type ifname : verdict%s
	}

	set sources4 {
		type ifname . ipv4_addr%s
	}

	set sources6 {
		type ifname . ipv6_addr
	}

	set watched {
		type ifname
		flags timeout
	}

	set drops {
		type ifname . mark . mark
		size 65536
		flags dynamic
	}
%s
	chain forward-egress {
		type filter hook forward priority filter - 1; policy accept;
		ct state established,related accept
		iifname vmap @from_pod
		iifname "cali*" goto drop-egress-pending
	}

	chain forward-ingress {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept
		oifname vmap @to_pod
		oifname "cali*" goto drop-ingress-pending
	}

	chain input {
		type filter hook input priority filter; policy accept;
		icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept
		ct state established,related accept
		iifname vmap @from_pod
		iifname "cali*" goto drop-egress-pending
	}

""" + "\n".join(reason(*each) for each in (
    (Direction.EGRESS, Reason.INVALID), (Direction.EGRESS, Reason.LOOPBACK), (Direction.EGRESS, Reason.PENDING),
    (Direction.EGRESS, Reason.SOURCE), (Direction.INGRESS, Reason.INVALID), (Direction.INGRESS, Reason.PENDING),
)) + """
	chain from-pod-guard {
		ct state invalid goto drop-egress-invalid
		ct state new tcp flags != syn / fin,syn,rst,ack goto drop-egress-invalid
		iifname . ip saddr != @sources4 goto drop-egress-source
		iifname . ip6 saddr != @sources6 goto drop-egress-source
		ip daddr 127.0.0.0/8 ct status ! dnat goto drop-egress-loopback
	}

	chain to-pod-guard {
		ct state invalid goto drop-ingress-invalid
		ct state new tcp flags != syn / fin,syn,rst,ack goto drop-ingress-invalid
	}
"""


@pytest.fixture
def nft() -> Iterator[tuple[Nftables, str]]:
    with namespace("nft") as path, Nftables(path) as connection:
        yield connection, path.name


def listed(nft: tuple[Nftables, str], what: str, *name: str) -> str:
    return command(path_of(nft[1]), "nft", "list", what, "inet", "muslin", *name)


def commit(nft: tuple[Nftables, str], update: Update, *interfaces: str) -> State:
    state = State()
    for interface in interfaces:
        state, _ = applied(state, Claim(Attachment("net", interface, "eth0"), interface))
    state, _ = applied(state, update)
    nft[0].commit(table.replacement(state.parts.values(), ["cali"]))
    return state


def test_an_empty_program(nft: tuple[Nftables, str]) -> None:
    commit(nft, Update(1, snapshot=True))
    comment = f'\tcomment "{table.LAYOUT}"'
    assert listed(nft, "table") == "table inet muslin {\n" + comment + FRAME % ("", "", "", "") + "}\n"


def test_an_endpoint_with_a_policy_a_profile_and_a_pass(nft: tuple[Nftables, str]) -> None:
    adm, net, profile = ("adm/first", "default/web", "profile/k8s_ns.shop")
    one = Endpoint(Attachment("net", "cali1", "eth0"), "cali1", (ipaddress.IPv4Address("10.0.0.1"),),
                   ingress=((adm,), (net,)), profiles=(profile,), workload="shop/web-1")
    commit(nft, Update(1, snapshot=True, endpoints=(one,), policies=(
        Policy(adm, "first", ingress=(Rule(Action.PASS, 6, path="spec.ingress[0]"),
                                      Rule(Action.DENY, path="spec.ingress[1]"))),
        Policy(net, "web", ingress=(Rule(Action.ALLOW, 6, ports=((80, 80),), path="spec.ingress[0]"),)),
        Policy(profile, "k8s_ns.shop", (Rule(Action.ALLOW),), (Rule(Action.ALLOW),)))), "cali1")
    whole = listed(nft, "table")
    first = stage_chain(Direction.INGRESS, ((adm,), (net,)), (profile,))
    second = stage_chain(Direction.INGRESS, ((net,),), (profile,))
    out = stage_chain(Direction.EGRESS, (), (profile,))
    denied = drop_chain(adm, Direction.INGRESS)
    elements = [f'\n\t\telements = {{ "cali1" comment "shop/web-1" : jump {chain} }}' for chain in (out, first)]
    frame = FRAME % (*elements, '\n\t\telements = { "cali1" . 10.0.0.1 }', "")
    assert whole.startswith("table inet muslin {\n" + f'\tcomment "{table.LAYOUT}"' + frame)
    chains = {
        out: f"""
            jump from-pod-guard
            jump {policy_chain(profile, Direction.EGRESS)} comment "{profile}"
            {dropping(Direction.EGRESS, stage_cause(out), "no profile decided", "            ").strip()}
            """,
        first: f"""
            jump to-pod-guard
            jump {variant_chain(adm, first)} comment "{adm}"
            {dropping(Direction.INGRESS, stage_cause(first), "no policy decided", "            ").strip()}
            """,
        second: f"""
            jump to-pod-guard
            jump {policy_chain(net, Direction.INGRESS)} comment "{net}"
            {dropping(Direction.INGRESS, stage_cause(second), "no policy decided", "            ").strip()}
            """,
        variant_chain(adm, first): f"""
            comment "{adm}"
            meta l4proto tcp goto {second} comment "spec.ingress[0]"
            goto {denied} comment "spec.ingress[1]"
            """,
        denied: f"""
            comment "{adm}"
            {dropping(Direction.INGRESS, policy_cause(adm, Direction.INGRESS), "denied", "            ").strip()}
            """,
        policy_chain(net, Direction.INGRESS): f"""
            comment "{net}"
            tcp dport 80 accept comment "spec.ingress[0]"
            """,
    }
    for name, rules in chains.items():
        body = textwrap.indent(textwrap.dedent(rules).strip(), "\t\t")
        assert f"\tchain {name} {{\n{body}\n\t}}\n" in whole


MATCHES = {
    Rule(Action.ALLOW): ["accept"],
    Rule(Action.DENY): [f"goto {drop_chain('t/p', Direction.INGRESS)}"],
    Rule(Action.LOG, 17): ['meta l4proto udp limit rate 10/second burst 50 packets log prefix "muslin t/p: "'],
    Rule(Action.LOG, 17, path="spec.ingress[1]"): [
        ('meta l4proto udp limit rate 10/second burst 50 packets log prefix "muslin t/p spec.ingress[1]: " '
         'comment "spec.ingress[1]"')],
    Rule(Action.ALLOW, 132, ports=((80, 80), (81, 90), (443, 443))): ["sctp dport { 80-90, 443 } accept"],
    Rule(Action.ALLOW, 17, ports=((1000, 2000),)): ["udp dport 1000-2000 accept"],
    Rule(Action.ALLOW, 1, ports=((1000, 2000),)): [],
    Rule(Action.ALLOW, ports=((53, 53),)): ["meta l4proto { tcp, udp, sctp } th dport 53 accept"],
    Rule(Action.ALLOW, peer_group="four"): ["ip saddr @FOUR4 accept"],
    Rule(Action.ALLOW, 6, peer_group="both", ports=((80, 80),)): [
        "tcp dport 80 ip saddr @BOTH4 accept", "tcp dport 80 ip6 saddr @BOTH6 accept"],
    Rule(Action.ALLOW, port_group="named"): ["ip daddr . meta l4proto . th dport @NAMED4 accept"],
    Rule(Action.ALLOW, nets=(ipaddress.ip_network("10.0.0.0/8"),), not_nets=(ipaddress.ip_network("10.1.2.0/23"),)): [
        "ip saddr 10.0.0.0/8 ip saddr != 10.1.2.0/23 accept"],
    Rule(Action.ALLOW, nets=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/10"))): [
        "ip saddr 10.0.0.0/8 accept", "ip6 saddr fd00::/10 accept"],
    Rule(Action.ALLOW, not_nets=tuple(map(ipaddress.ip_network, ("10.0.0.0/9", "10.192.0.0/10")))): [
        "ip saddr != { 10.0.0.0/9, 10.192.0.0/10 } accept", "meta nfproto ipv6 accept"],
    Rule(Action.ALLOW, nets=(ipaddress.ip_network("0.0.0.0/0"),)): ["meta nfproto ipv4 accept"],
}


@pytest.mark.parametrize("rule", MATCHES, ids=lambda rule: "; ".join(MATCHES[rule]) or "nothing")
def test_each_kind_of_match(nft: tuple[Nftables, str], rule: Rule) -> None:
    groups = (group("four", Kind.ADDRESS, "10.0.0.1"), group("both", Kind.ADDRESS, "10.0.0.1", "fd00::1"),
              group("named", Kind.PORT, "10.0.0.1,6,8080"))
    commit(nft, Update(1, snapshot=True, groups=groups, policies=(Policy("t/p", "t/p", ingress=(rule,)),)))
    expected = MATCHES[rule]
    for word, name in (("FOUR4", group_set("four", "address", 4)), ("BOTH4", group_set("both", "address", 4)),
                       ("BOTH6", group_set("both", "address", 6)), ("NAMED4", group_set("named", "port", 4))):
        expected = [line.replace(word, name) for line in expected]
    lines = listed(nft, "chain", policy_chain("t/p", Direction.INGRESS)).splitlines()
    assert [line.strip() for line in lines[3:-2]] == expected


def test_denials_are_logged_where_a_policy_asks_for_it(nft: tuple[Nftables, str]) -> None:
    """At the end of its tier, for whom and in the direction it isolates; and not where the profiles end."""
    allow = (Rule(Action.ALLOW, 6, ports=((80, 80),)),)
    policies = [Policy("t/a", "a", ingress=allow), Policy("t/b", "b", ingress=allow, egress=allow, log_denied=True),
                Policy("profile/p", "p", log_denied=True)]
    logged = ('limit rate 10/second burst 50 packets log prefix "muslin b denied: " '
              'comment "denials of b are logged"')

    def ends(direction: Direction, *tiers: tuple[str, ...]) -> list[str]:
        """The rules of a stage behind the jumps to its policies, but for those of each drop."""
        chain = stage_chain(direction, tiers, ("profile/p",))
        lines = [line.strip() for line in listed(nft, "chain", chain).splitlines()[2:-2]]
        rules = [line for line in lines if not line.startswith("jump")]
        assert rules[-1].startswith("counter")
        return rules[:-3]

    one = Endpoint(Attachment("net", "cali1", "eth0"), "cali1", (ipaddress.IPv4Address("10.0.0.1"),),
                   (("t/a", "t/b"),), (), ("profile/p",))
    two = replace(one, attachment=Attachment("net", "cali2", "eth0"), interface="cali2", ingress=(("t/a",),),
                  egress=(("t/b",),))
    state = commit(nft, Update(1, snapshot=True, policies=tuple(policies), endpoints=(one, two)), "cali1", "cali2")
    assert ends(Direction.INGRESS, ("t/a", "t/b")) == [logged]
    assert ends(Direction.INGRESS, ("t/a",)) == []
    assert ends(Direction.EGRESS, ("t/b",)) == [logged]
    assert ends(Direction.EGRESS) == []
    _, changed = applied(state, Update(2, policies=(replace(policies[1], log_denied=False),)))
    assert {owner[1].tiers for owner in changed if isinstance(owner[1], Stage)} == {(("t/a", "t/b"),), (("t/b",),)}


def test_a_refused_transaction_changes_nothing_and_says_which_message(nft: tuple[Nftables, str]) -> None:
    commit(nft, Update(1, snapshot=True))
    before = listed(nft, "table")
    with pytest.raises(KernelError, match=r"delete chain nowhere: .*No such file") as refused:
        nft[0].commit([m.add_chain("muslin", "new"), m.delete_chain("muslin", "nowhere"),
                       m.add_chain("muslin", "newer")])
    assert (refused.value.index, listed(nft, "table")) == (1, before)
    # No message alone is wrong here: the loop is seen when the whole is checked.
    pairs = (("a", "b"), ("b", "a"), ("input", "a"))
    loop = [*(m.add_chain("muslin", name) for name in "ab"), *(
        message for name, target in pairs
        for message in m.add_rules("muslin", name, [x.Rule((x.verdict(x.JUMP, target),))], iter(())))]
    with pytest.raises(KernelError, match="Too many links"):
        nft[0].commit(loop)
    assert listed(nft, "table") == before
    nft[0].commit([m.add_chain("muslin", "fine")])
    assert "fine" in nft[0].chains("muslin")


def test_what_is_read_back(nft: tuple[Nftables, str]) -> None:
    assert nft[0].table_comment("muslin") is None
    commit(nft, Update(1, snapshot=True, groups=(group("big", Kind.ADDRESS, *(f"10.{i}.{j}.1" for i in range(40)
                                                                            for j in range(256))),)))
    assert nft[0].table_comment("muslin") == table.LAYOUT
    assert set(nft[0].chains("muslin")) == table.FRAME_CHAINS
    assert set(nft[0].sets("muslin")) == {*table.FRAME_SETS, *LOOSE_SETS, group_set("big", "address", 4)}
    assert len(nft[0].elements("muslin", group_set("big", "address", 4))) == 40 * 256


DAMAGES = {
    "delete element inet muslin sources4 { cali1 . 10.0.0.1 }": "elements of sources4",
    "add element inet muslin from_pod { cali9 : accept }": "elements of from_pod",
    "flush chain inet muslin input": "rules of input",
    "insert rule inet muslin forward-ingress accept": "rules of forward-ingress",
    "add chain inet muslin theirs": "chain theirs",
    "add set inet muslin theirs { type ipv4_addr; }": "set theirs",
    f"delete element inet muslin {group_set('web', 'address', 4)} {{ 10.0.0.1 }}":
        f"elements of {group_set('web', 'address', 4)}",
    "delete table inet muslin": "table muslin is gone, or another",
    "add table inet theirs": "",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_change_by_somebody_else_is_noticed_and_repaired(nft: tuple[Nftables, str], damage: str) -> None:
    one = Endpoint(Attachment("net", "cali1", "eth0"), "cali1", (ipaddress.IPv4Address("10.0.0.1"),))
    state, _ = applied(State(), Claim(one.attachment, "cali1"))
    state, _ = applied(state, Update(1, snapshot=True, endpoints=(one,),
                                     groups=(group("web", Kind.ADDRESS, "10.0.0.1"),)))
    wanted, prefixes = table.merged(state.parts.values()), ["cali"]
    nft[0].commit(table.replacement(state.parts.values(), prefixes))
    before = nft[0].generation()
    assert actual.difference(nft[0], wanted, prefixes) == ""
    command(path_of(nft[1]), "nft", damage)
    assert nft[0].generation() != before
    assert actual.difference(nft[0], wanted, prefixes) == DAMAGES[damage]
    there = actual.read(nft[0])
    for messages in ([table.replacement(state.parts.values(), prefixes)] if there is None
                     else table.repair(there, state.parts.values(), prefixes)):
        nft[0].commit(messages)
    assert actual.difference(nft[0], wanted, prefixes) == ""
