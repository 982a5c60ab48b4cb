"""Addresses to listen on."""

from __future__ import annotations

from pathlib import Path

import pytest

from muslin.errors import InvalidArgument
from muslin.rpc.listen import unix_path


def test_a_unix_socket_has_a_path() -> None:
    assert unix_path("unix:/run/muslin/ipam.sock") == Path("/run/muslin/ipam.sock")


@pytest.mark.parametrize("address", ["127.0.0.1:7001", "localhost:7001", "[::1]:7001"])
def test_loopback_is_served_in_plaintext(address: str) -> None:
    assert unix_path(address) is None


@pytest.mark.parametrize("address", ["0.0.0.0:7001", "10.0.0.1:7001", "example.org:7001", "unix:relative", "7001",
                                     "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "unix:/" + "x" * 120])
def test_what_others_could_reach_or_nobody_could_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="--listen"):
        unix_path(address)
