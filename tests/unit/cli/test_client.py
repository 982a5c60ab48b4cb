"""Where the commands find a service: as the environment says, where one listens, where `muslin up` runs it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from muslin.cli.client import target_of
from muslin.cli.places import Places
from muslin.errors import Unavailable


def test_a_service_that_listens_needs_no_muslin_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only itself: the others are not there by it. A socket that nobody listens on any more is none."""
    monkeypatch.delenv("MUSLIN_IPAM", raising=False)
    place = Places(tmp_path, tmp_path).socket("ipam")
    place.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        assert target_of("ipam", tmp_path) == f"unix:{place}"
        with pytest.raises(Unavailable, match="muslin is not up on"):
            target_of("endpoint", tmp_path)
    assert place.exists()
    with pytest.raises(Unavailable, match="muslin is not up on"):
        target_of("ipam", tmp_path)
    monkeypatch.setenv("MUSLIN_IPAM", "example:7401")
    assert target_of("ipam", tmp_path) == "example:7401"


def test_a_directory_whose_name_is_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="muslin is not up on"):
        target_of("policy", tmp_path / ("x" * 150))
