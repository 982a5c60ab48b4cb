"""Addresses to listen on."""

from __future__ import annotations

from pathlib import Path

import pytest

from muslin import rpc
from muslin.errors import FailedPrecondition, InvalidArgument
from muslin.rpc import client, tls
from muslin.rpc.listen import unix_path


def test_a_unix_socket_has_a_path() -> None:
    assert unix_path("unix:/run/muslin/ipam.sock") == Path("/run/muslin/ipam.sock")


@pytest.mark.parametrize("address", ["127.0.0.1:7001", "localhost:7001", "[::1]:7001", "0.0.0.0:7001",
                                     "example.org:7001"])
def test_tcp_has_no_path(address: str) -> None:
    assert unix_path(address) is None


@pytest.mark.parametrize("address", ["unix:relative", "7001", ":7001", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                                     "unix:/" + "x" * 120])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="--listen"):
        unix_path(address)


def test_tcp_without_a_certificate_is_refused_at_both_ends() -> None:
    """There is no option for plaintext, not on loopback either."""
    with pytest.raises(FailedPrecondition, match="--tls-cert"):
        tls.own("--listen 127.0.0.1:7001")
    with pytest.raises(FailedPrecondition, match=r"127\.0\.0\.1:7001: TCP needs a certificate"):
        rpc.channel("127.0.0.1:7001")


@pytest.mark.parametrize("target", ["$(IPAM_SERVICE_HOST):7401", "ipam1:7401,$(IPAM_SERVICE_HOST):7401", ":7401",
                                    "a/b:1"])
def test_what_is_no_target_is_named(target: str) -> None:
    """Among it what is left of a variable that a cluster did not know yet: who ends for it is started anew, with it."""
    with pytest.raises(InvalidArgument, match="host:port"):
        client._targets(target)
    assert client._targets("ipam1:7401, [fd00::1]:7401,10.0.0.1:7401") == [
        "ipam1:7401", "[fd00::1]:7401", "10.0.0.1:7401"]
