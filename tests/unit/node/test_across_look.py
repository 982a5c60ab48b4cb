"""A look at the ways between nodes is of one moment: what is told while the kernel is asked counts in the next."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Any

import grpc

from services.node.across.ground import Underlay
from services.node.across.plan import Host, Route
from services.node.across.service import Across, Settings, pause_after
from services.node.uplink import Uplink

HOST = Host("n2", {4: ipaddress.ip_address("198.18.0.2")})
ROUTE = Route(ipaddress.ip_network("10.9.0.0/26"), "n2", "default")


class Kernel:
    """Answers the question what is there, and says who would change it."""

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        self._meanwhile = meanwhile
        self.asked: list[str] = []

    async def run(self, step: Any) -> Underlay:
        self.asked.append(step.func.__name__)
        self._meanwhile()
        return Underlay({4: ipaddress.ip_address("198.18.0.1")}, frozenset(), frozenset({1}), {})


async def test_what_is_told_during_a_look_does_not_make_the_look_before_it_complete() -> None:
    def told() -> None:
        across._hosts.known, across._hosts.complete = {"n2": HOST}, True
        across._routes.known, across._routes.complete = {"10.9.0.0/26": ROUTE}, True

    kernel = Kernel(told)
    async with grpc.aio.insecure_channel("unix:/nowhere") as channel:
        across = Across("n1", {"endpoint": channel, "ipam": channel}, kernel, None,  # type: ignore[arg-type]  # doubles
                        ("mus",), Uplink(), Settings(), str)
        await asyncio.wait_for(across._look(), 10)
    assert kernel.asked == ["look"], "routes would have been changed without knowing where nodes are"


def test_a_look_that_took_long_does_not_put_off_the_next_for_as_long() -> None:
    """Or what is told while the kernel is busy, with others' namespaces say, would be in force much later."""
    assert pause_after(0.0) == 0.01
    assert pause_after(0.05) == 0.25
    assert pause_after(10.0) == 0.5
