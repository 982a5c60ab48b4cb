"""Endpoints as people write them, and delays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muslin.errors import InvalidArgument, MuslinError, Unsupported
from muslin.etcd.backoff import Backoff
from muslin.etcd.cluster import Address, Cluster


@pytest.mark.parametrize(("text", "host", "port", "target"), [
    ("127.0.0.1:2379", "127.0.0.1", 2379, "ipv4:127.0.0.1:2379"),
    ("http://127.0.0.1:2379", "127.0.0.1", 2379, "ipv4:127.0.0.1:2379"),
    ("http://127.0.0.1:2379/", "127.0.0.1", 2379, "ipv4:127.0.0.1:2379"),
    ("[::1]:2379", "::1", 2379, "ipv6:[::1]:2379"),
    ("etcd1:2379", "etcd1", 2379, "dns:///etcd1:2379"),
    ("etcd.kube-system.svc:1", "etcd.kube-system.svc", 1, "dns:///etcd.kube-system.svc:1"),
])
def test_endpoints(text: str, host: str, port: int, target: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.target) == (host, port, target)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "etcd1", ":2379", "etcd1:", "etcd1:0", "etcd1:65536", "etcd1:http", "::1:2379",
                                  "http://", "http://etcd1:2379/path", "$(ETCD_SERVICE_HOST):2379"])
def test_what_is_no_endpoint_is_named(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Address.parse(text)
    assert repr(text) in caught.value.message
    assert ":2379" in caught.value.message, "the message shows how to write it"


def test_tls_is_refused_and_not_ignored() -> None:
    with pytest.raises(Unsupported, match="TLS"):
        Address.parse("https://etcd1:2379")


def test_a_cluster_needs_an_endpoint_and_counts_each_once() -> None:
    with pytest.raises(InvalidArgument):
        Cluster([])
    with pytest.raises(MuslinError):
        Cluster(["etcd1:2379", "bad"])
    assert len(Cluster(["etcd1:2379", "http://etcd1:2379", "etcd2:2379"])) == 2


@given(st.integers(1, 30))
def test_delays_grow_to_a_bound_and_begin_anew(steps: int) -> None:
    backoff = Backoff(first=0.05, most=2.0)
    for step in range(steps):
        most = min(0.05 * 2 ** step, 2.0)
        assert most / 2 <= backoff.next() <= most
    backoff.reset()
    assert backoff.next() <= 0.05
