"""What people and programs are shown, from messages of the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2
from muslin.cli.ipam import address, usage, views
from muslin.cli.ipam.bar import legend
from muslin.cli.ipam.output import plain, plains, structured
from muslin.cli.ipam.table import Look
from muslin.cli.ipam.usage import Ranges, Usage

TEXT = Look(unicode=False)
NARROW = Look(unicode=False, width=80)
MS = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC
CONTAINER = "322c8de246eb42058ce2522fbef4cac4f39c8dacb2944e5ba6db79f7f25b2991"
BLOCKS = [
    ipam_pb2.Block(cidr="10.0.0.0/26", pool="default", node="node1", used=60, size=64, cooling=2, borrowed=3),
    ipam_pb2.Block(cidr="10.0.0.64/26", pool="default", node="node2", used=5, size=64,
                   affinity=ipam_pb2.Block.AFFINITY_PENDING),
    ipam_pb2.Block(cidr="10.0.0.128/26", pool="default", used=1, size=64, affinity=ipam_pb2.Block.AFFINITY_NONE)]
POOLS = [
    ipam_pb2.Pool(name="default", cidr="10.0.0.0/24", block_size=26, used=66, size=256, cooling=2, reserved=4,
                  blocks=3),
    ipam_pb2.Pool(name="v6", cidr="fd00:10::/48", block_size=122, size=2 ** 64 - 1, disabled=True,
                  cool_down_seconds=0, node_selector='zone == "a"', encapsulation="vxlan", masquerade=False)]
RESERVED = Ranges([ipam_pb2.Reservation(name="r", cidrs=["10.0.0.60/30"])])
USES = usage.of_blocks(BLOCKS, RESERVED)
HANDLE = ipam_pb2.Handle(
    attachment=cni_pb2.Attachment(network="k8s", container_id=CONTAINER, ifname="eth0"),
    addresses=["10.0.0.7", "fd00:10::7"], node="node1", namespace="shop", pod="web-1", created_ms=MS)
FINDINGS = [
    ipam_pb2.Finding(handle=HANDLE, reason="no endpoint has it", since_ms=MS, freed=True),
    ipam_pb2.Finding(block="10.0.0.64/26", reason="it is empty", since_ms=MS)]


def test_pools_with_their_use() -> None:
    assert views.pools(usage.of_pools(POOLS, USES), TEXT).splitlines() == [
        "POOL           RANGE         BLOCKS  USE                        USED  COOLING  RESERVED  BORROWED   FREE",
        "default        10.0.0.0/24        3  #####~x.............  25%    66        2         4         3    184",
        "v6 (disabled)  fd00:10::/48       0  ....................   0%     0        0         0         0  ~2^80"]
    assert legend(TEXT) == "# used   ~ cooling down   x reserved   . free"


def test_blocks_say_whose_they_are() -> None:
    assert views.blocks(USES, TEXT).splitlines() == [
        "BLOCK          POOL     NODE             USE                        USED  COOLING  RESERVED  BORROWED  FREE",
        "10.0.0.0/26    default  node1            ##################~x  93%    60        2         4         3     0",
        "10.0.0.64/26   default  node2 (pending)  ##..................   7%     5        0         0         0    59",
        "10.0.0.128/26  default  -                #...................   1%     1        0         0         0    63"]


@pytest.mark.parametrize("text", [
    views.pools(usage.of_pools(POOLS, USES), NARROW), views.blocks(USES, NARROW),
    views.nodes(usage.of_nodes(USES), NARROW), views.pool_list(POOLS, NARROW), views.handles([HANDLE], NARROW),
    views.findings(FINDINGS, NARROW, dry_run=True),
], ids=["pools", "blocks", "nodes", "pool list", "handles", "findings"])
def test_everything_fits_eighty_columns_without_escapes(text: str) -> None:
    assert max(map(len, text.splitlines())) <= 80
    assert "\033" not in text


def test_colour_changes_nothing_but_colours() -> None:
    coloured = views.blocks(USES, Look(unicode=False, colour=True))
    assert "\033[33m" in coloured
    assert "".join(part.partition("m")[2] if i else part for i, part in enumerate(coloured.split("\033["))) == (
        views.blocks(USES, TEXT))


def test_pools_and_what_is_set_for_them() -> None:
    assert views.pool_list(POOLS, TEXT).splitlines() == [
        "POOL     RANGE         BLOCK SIZE  STATE     COOL-DOWN  NODES        NAMESPACES  BETWEEN NODES  MASQUERADE",
        "default  10.0.0.0/24          /26  enabled        30 s  all          all         by node        yes",
        'v6       fd00:10::/48        /122  disabled        0 s  zone == "a"  all         vxlan          no']


@pytest.mark.parametrize(("used", "size", "shown"), [
    (0, 10, "0%"), (1, 65536, "<1%"), (1, 100, "1%"), (999, 1000, "99%"), (10, 10, "100%"), (0, 0, "0%")])
def test_per_cent_is_all_or_nothing_only_if_exact(used: int, size: int, shown: str) -> None:
    assert views.percent(Usage(size=size, used=used)) == shown


@pytest.mark.parametrize(("number", "shown"), [(65536, "65536"), (2 ** 80 - 64, "~2^80"), (2 ** 64, "~2^64")])
def test_counts_are_exact_as_far_as_they_are_read(number: int, shown: str) -> None:
    assert views.count(number) == shown


def test_findings_say_what_became_of_them() -> None:
    lines = views.findings(FINDINGS, TEXT, dry_run=False).splitlines()
    assert lines[1].split("  ") == [f"k8s/{CONTAINER}/eth0", "10.0.0.7 fd00:10::7", "node1", "shop/web-1",
                                    "2023-11-14 22:13:20Z", "yes", "", "no endpoint has it"]
    assert lines[2].split()[:3] == ["empty", "block", "10.0.0.64/26"]
    assert lines[3] == "2 found, 1 freed"
    assert views.findings(FINDINGS, TEXT, dry_run=True).splitlines()[3] == "2 found, 1 would be freed"
    assert views.findings([], TEXT, dry_run=False) == "nothing is left over"


def test_a_report_is_a_line_for_each_problem_and_the_totals() -> None:
    report = ipam_pb2.Report(allocated=5, in_use=4, problems=[
        ipam_pb2.Problem(kind=ipam_pb2.Problem.KIND_NOT_IN_USE, subject="10.0.0.7", detail="no endpoint has it",
                         handle="k8s/a/eth0"),
        ipam_pb2.Problem(kind=ipam_pb2.Problem.KIND_UNDECODABLE, subject="/a/key", detail="JSON is malformed: byte 3")])
    assert views.problems(report).splitlines() == [
        "not in use: 10.0.0.7: no endpoint has it [k8s/a/eth0]", "undecodable: /a/key: JSON is malformed: byte 3",
        "5 allocated, 4 in use, 2 problems"]
    report.problems[0].detail = "\033[2J\n\r\u202eü"
    assert views.problem_lines(report.problems)[0] == (
        r"not in use: 10.0.0.7: \x1b[2J\n\r\u202eü [k8s/a/eth0]")
    assert views.problems(ipam_pb2.Report(allocated=1)) == "1 allocated, 0 in use, no problems"


def test_settings_name_their_defaults() -> None:
    assert views.config(ipam_pb2.Config()).splitlines() == [
        "strict affinity    no", "max blocks a node  20", "automatic blocks   yes"]
    changed = ipam_pb2.Config(strict_affinity=True, max_blocks_per_node=3, no_automatic_blocks=True)
    assert views.config(changed).splitlines() == [
        "strict affinity    yes", "max blocks a node  3", "automatic blocks   no"]


def test_an_address_in_use() -> None:
    slot = ipam_pb2.Slot(address="10.0.0.7", handle=f"k8s/{CONTAINER}/eth0", sequence=3)
    found = ipam_pb2.LookupResponse(pool="default", block=BLOCKS[0], handle=HANDLE, reservation="gw", slot=slot)
    assert address.describe("10.0.0.7", found, POOLS[0]).splitlines() == [
        "address        10.0.0.7", "state          in use", "pool           default", "reservation    gw",
        "block          10.0.0.0/26 (of node node1, confirmed)", f"attachment     k8s/{CONTAINER}/eth0",
        "node           node1", "pod            shop/web-1", "assigned       2023-11-14 22:13:20Z",
        "all addresses  10.0.0.7 fd00:10::7", "sequence       3"]


def test_a_cooling_address_says_until_when() -> None:
    """As long as its pool says, 30 s if that does not say; unknown if the pool is not there any more."""
    slot = ipam_pb2.Slot(address="10.0.0.7", handle="k8s/a/eth0", sequence=3, released_ms=MS)
    found = ipam_pb2.LookupResponse(pool="default", block=BLOCKS[2], slot=slot)
    assert address.describe("10.0.0.7", found, POOLS[0]).splitlines()[1:] == [
        "state         cooling down", "pool          default", "block         10.0.0.128/26 (of no node)",
        "held last by  k8s/a/eth0", "freed         2023-11-14 22:13:20Z", "cools until   2023-11-14 22:13:50Z",
        "sequence      3"]
    assert "cools until   2023-11-14 22:13:20Z" in address.describe("10.0.0.7", found, POOLS[1])
    assert "cools until" not in address.describe("10.0.0.7", found, None)


@pytest.mark.parametrize(("found", "state"), [
    (ipam_pb2.LookupResponse(), "outside all pools"), (ipam_pb2.LookupResponse(pool="a"), "free"),
    (ipam_pb2.LookupResponse(pool="a", reservation="r"), "reserved"),
    (ipam_pb2.LookupResponse(handle=ipam_pb2.Handle(kept_until_ms=MS)), "kept for its pod's return"),
    (ipam_pb2.LookupResponse(slot=ipam_pb2.Slot(sequence=1)), "held without a handle: see `muslin ipam check`"),
])
def test_states(found: ipam_pb2.LookupResponse, state: str) -> None:
    assert address.state(found) == state
    assert state in address.describe("10.0.0.7", found, None)


@given(st.integers(0, 2 ** 64 - 1), st.booleans(), st.text(max_size=5))
def test_json_and_yaml_are_the_message_and_have_every_field(number: int, flag: bool, text: str) -> None:
    """Numbers are numbers; what is read back is the same message; the shape does not depend on the values."""
    pool = ipam_pb2.Pool(name=text, size=number, disabled=flag, cool_down_seconds=number % 1200)
    for read, form in ((json.loads, "json"), (yaml.safe_load, "yaml")):
        value: Any = read(structured(plain(pool), form))
        assert value["size"] == number
        assert value.keys() == plain(ipam_pb2.Pool()).keys() == set(ipam_pb2.Pool.DESCRIPTOR.fields_by_name)
        assert json_format.ParseDict(value, ipam_pb2.Pool()) == pool


def test_what_is_not_set_is_null_and_enumerators_are_names() -> None:
    found = plain(ipam_pb2.LookupResponse(block=ipam_pb2.Block(affinity=ipam_pb2.Block.AFFINITY_NONE)))
    assert (found["handle"], found["block"]["affinity"]) == (None, "AFFINITY_NONE")
    assert plains(POOLS)[0]["cool_down_seconds"] is None
    assert plains(POOLS)[1]["cool_down_seconds"] == 0
