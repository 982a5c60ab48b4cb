"""CHECK: what a record and the result of ADD agree on, in every version of the result."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.cni import result, versions
from muslin.cni.result import Interface, IPConfig, Result, previous
from muslin.errors import InvalidArgument
from services.endpoint.check import differences
from services.endpoint.records import WorkloadEndpoint

RECORD = WorkloadEndpoint("net", "c1", "eth0", "worker", "k8s", "prod.web", addresses=("10.0.0.1", "fd00::1"),
                          host_interface="cali1", mac="0a:00:00:00:00:01")
ANSWERED = Result(interfaces=(Interface("cali1", "ee:ee:ee:ee:ee:ee"),
                              Interface("eth0", "0A:00:00:00:00:01", sandbox="/run/netns/x")),
                  ips=(IPConfig("10.0.0.1/32", interface=1), IPConfig("fd00::1/128", interface=1)))


def changed(**fields: Any) -> Result:
    return Result(**{"interfaces": ANSWERED.interfaces, "ips": ANSWERED.ips} | fields)


@pytest.mark.parametrize("version", versions.SUPPORTED)
def test_what_add_answered_agrees_in_every_version(version: str) -> None:
    assert list(differences(RECORD, result.parse(result.render(ANSWERED, version)))) == []


@given(st.lists(st.builds(Interface, st.sampled_from(["eth1", "tap0", "cali1"]), st.just("0a:00:00:00:00:09"),
                          st.just(0), st.sampled_from(["", "/run/netns/x"])), max_size=4))
def test_what_later_plugins_added_is_no_difference(more: list[Interface]) -> None:
    """Interfaces, and addresses on them; in whatever number."""
    ips = [IPConfig(f"172.16.0.{n}/24", interface=2 + n) for n in range(len(more))]
    assert list(differences(RECORD, changed(interfaces=(*ANSWERED.interfaces, *more),
                                            ips=(*ANSWERED.ips, *ips)))) == []


@pytest.mark.parametrize(("answered", "said"), [
    (changed(ips=ANSWERED.ips[:1]), "record has fd00::1, prevResult has not"),
    (changed(ips=(*ANSWERED.ips, IPConfig("10.0.0.2/32", interface=1))), "prevResult has 10.0.0.2, the record"),
    (changed(ips=(*ANSWERED.ips, IPConfig("10.0.0.2/32"))), "prevResult has 10.0.0.2, the record"),
    (changed(interfaces=ANSWERED.interfaces[:1]), "no eth0 in a sandbox"),
    (changed(interfaces=ANSWERED.interfaces[1:], ips=[]), "host interface: the record says cali1"),
    (changed(interfaces=(ANSWERED.interfaces[0], Interface("eth0", "00:00:00:00:00:07", sandbox="x"))), "mac: the"),
    (changed(interfaces=(ANSWERED.interfaces[0], Interface("eth0", RECORD.mac))), "no eth0 in a sandbox"),
])
def test_what_differs_is_named(answered: Result, said: str) -> None:
    assert any(said in text for text in differences(RECORD, answered))


def test_without_a_result_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(InvalidArgument, match="prevResult"):
        previous(None)
    with pytest.raises(InvalidArgument, match="prevResult"):
        previous({})
