"""A deletion that the daemon carries out on its own account, against services that fail as they are told."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from muslin import rpc
from muslin.api.cni.v1 import cni_pb2
from muslin.errors import FailedPrecondition, Unavailable
from services.node.upkeep.chain import Chain
from tests.support.chain import Chain as Services
from tests.support.chain import serving

CALL = cni_pb2.Call(container_id="c1", ifname="eth0", config=b"{}")


@pytest.mark.parametrize(("fails", "asked"), [
    (None, ["endpoint.Del", "policy.Del", "ipam.Del"]),
    ("node", ["endpoint.Del", "policy.Del"]),
    ("endpoint.Del", ["endpoint.Del", "policy.Del"]),
    ("policy.Del", ["endpoint.Del", "policy.Del", "ipam.Del"]),
    ("ipam.Del", ["endpoint.Del", "policy.Del", "ipam.Del"]),
])
async def test_an_address_is_freed_when_nobody_uses_it_any_more(
        tmp_path: Path, fails: str | None, asked: list[str]) -> None:
    """Not while the pod is still wired, or its record is there."""
    services = Services()
    if fails and "." in fails:
        services.fails(fails, grpc.StatusCode.UNAVAILABLE, "away")

    async def own(call: cni_pb2.Call) -> None:
        if fails == "node":
            raise FailedPrecondition("still there")

    async with serving(services, tmp_path / "s"), rpc.channel(f"unix:{tmp_path}/s") as channel:
        chain = Chain("n1", dict.fromkeys(("endpoint", "policy", "ipam"), channel), own)
        failures = await chain.delete(CALL)
    assert services.steps == asked
    assert [type(failure) for failure in failures] == (
        [] if fails is None else [FailedPrecondition] if fails == "node" else [Unavailable])
