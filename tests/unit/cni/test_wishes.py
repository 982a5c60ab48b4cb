"""A MAC address and rates, asked for by the runtime or the pod: who comes first, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.cni import netconf
from muslin.cni.context import Bandwidth
from muslin.cni.netconf import NetConf
from muslin.cni.wishes import bandwidth, mac
from muslin.errors import InvalidArgument

CONF = NetConf("1.0.0", "net", "muslin")
OURS, CALICOS = "muslin.dev/hwAddr", "cni.projectcalico.org/hwAddr"
A, B, C, D = (f"02:00:00:00:00:0{digit}" for digit in "abcd")


def test_the_runtime_comes_before_the_pod_and_ours_before_calicos() -> None:
    asked = dataclasses.replace(CONF, runtime_mac=A)
    everything = {OURS: C, CALICOS: D}
    assert mac(asked, {"MAC": B}, everything) == A
    assert mac(CONF, {"MAC": B}, everything) == B
    assert mac(CONF, {}, everything) == C
    assert mac(CONF, {}, {CALICOS: D}) == D
    assert mac(CONF, {}, {}) == ""


@given(st.binary(min_size=6, max_size=6))
def test_an_address_comes_back_if_an_interface_can_have_it(raw: bytes) -> None:
    for value in (raw.hex(":"), raw.hex("-").upper()):
        if raw[0] & 1 or not any(raw):
            with pytest.raises(InvalidArgument, match="CNI_ARGS: MAC"):
                mac(CONF, {"MAC": value}, {})
        else:
            assert mac(CONF, {"MAC": value}, {}) == raw.hex(":")


@pytest.mark.parametrize("value", ["x", "02:00:00:00:00", "02:00:00:00:00:0g", "0200.0000.0001", "02:00:00:00:00:01 "])
def test_what_is_no_address_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument, match=CALICOS):
        mac(CONF, {}, {CALICOS: value})


def test_rates_of_the_runtime_and_of_annotations() -> None:
    """Each direction by itself: one that the runtime says nothing of is the pod's."""
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Mi"}
    assert bandwidth(CONF, annotations) == Bandwidth(10_000_000, 0, 1 << 20, 0)
    asked = dataclasses.replace(CONF, runtime_bandwidth=Bandwidth(5000, 800))
    assert bandwidth(asked, annotations) == Bandwidth(5000, 800, 1 << 20, 0)
    assert bandwidth(CONF, {}) is None


@pytest.mark.parametrize("value", ["fast", "10Q", "-1M", "500", "2P", "1e6"])
def test_what_is_no_rate_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidArgument, match=r"kubernetes\.io/egress-bandwidth"):
        bandwidth(CONF, {"kubernetes.io/egress-bandwidth": value})


def test_a_configuration_carries_both() -> None:
    read = netconf.parse(b'{"name": "net", "type": "muslin", "runtimeConfig": {"mac": "02:00:00:00:00:0a", '
                         b'"bandwidth": {"ingressRate": 1000, "ingressBurst": 2000, "egressRate": 3000}}}')
    assert read.runtime_mac == A
    assert read.runtime_bandwidth == Bandwidth(1000, 2000, 3000)
    with pytest.raises(InvalidArgument, match=r"runtimeConfig\.bandwidth\.ingressRate"):
        netconf.parse(b'{"name": "net", "type": "muslin", "runtimeConfig": {"bandwidth": {"ingressRate": "1M"}}}')
