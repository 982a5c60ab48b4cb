"""Results in every version of the specification."""

from __future__ import annotations

import json

import pytest

from muslin.cni import result, versions
from muslin.cni.result import Interface, IPConfig, Result, Route
from muslin.errors import Corrupt

FULL = Result(
    interfaces=(Interface("cali123", "ee:ee:ee:ee:ee:ee", 1500), Interface("eth0", "02:00:00:00:00:01", 1500, "/ns")),
    ips=(IPConfig("192.168.0.1/32", interface=1), IPConfig("fd00::1/128", interface=1)),
    routes=(Route("0.0.0.0/0", "169.254.1.1"), Route("::/0", "fe80::1")),
)


def rendered(version: str, value: Result = FULL) -> dict[str, object]:
    document: dict[str, object] = json.loads(result.render(value, version))
    assert document["cniVersion"] == version
    return document


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_the_oldest_have_one_address_a_family(version: str) -> None:
    document = rendered(version)
    assert document["ip4"] == {"ip": "192.168.0.1/32", "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]}
    assert document["ip6"] == {"ip": "fd00::1/128", "routes": [{"dst": "::/0", "gw": "fe80::1"}]}
    assert "ips" not in document
    assert "interfaces" not in document


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_the_middle_ones_say_the_family(version: str) -> None:
    assert rendered(version)["ips"] == [
        {"address": "192.168.0.1/32", "version": "4", "interface": 1},
        {"address": "fd00::1/128", "version": "6", "interface": 1}]


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_the_newest_do_not(version: str) -> None:
    assert rendered(version)["ips"] == [
        {"address": "192.168.0.1/32", "interface": 1}, {"address": "fd00::1/128", "interface": 1}]


def test_mtu_of_an_interface_is_said_from_1_1_0_on() -> None:
    with_mtu = {v for v in versions.SUPPORTED if "mtu" in json.dumps(rendered(v))}
    assert with_mtu == {"1.1.0"}


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_what_is_written_reads_back(version: str) -> None:
    back = result.parse(result.render(FULL, version))
    assert [ip.address for ip in back.ips] == [ip.address for ip in FULL.ips]
    assert back.routes == FULL.routes
    if version not in ("0.1.0", "0.2.0"):
        assert [i.name for i in back.interfaces] == [i.name for i in FULL.interfaces]


@pytest.mark.parametrize("raw", [b"x", b"[]", b"3", b'{"ips": [{}]}', b'{"ip4": {}, "ip6": 3}', b'{"interfaces": 1}'])
def test_what_is_no_result_is_corrupt(raw: bytes) -> None:
    with pytest.raises(Corrupt):
        result.parse(raw)


def test_nothing_so_far_is_the_empty_result() -> None:
    assert result.parse(b"") == Result()


def test_what_other_plugins_say_more_is_handed_on_where_the_version_has_it() -> None:
    raw = {"cniVersion": "1.1.0", "interfaces": [{"name": "d0", "socketPath": "/s"}],
           "routes": [{"dst": "10.0.0.0/8", "mtu": 1400, "table": 7}]}
    seen = result.parse(json.dumps(raw).encode())
    assert rendered("1.1.0", seen)["interfaces"] == raw["interfaces"]
    assert rendered("1.1.0", seen)["routes"] == raw["routes"]
    assert rendered("1.0.0", seen)["routes"] == [{"dst": "10.0.0.0/8"}]
    assert len({*seen.interfaces, *seen.routes}) == 2
