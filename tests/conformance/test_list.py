"""The plugin as the first of a list, with plugins of Debian's after it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest

from tests.conformance import kernel, schema
from tests.conformance.networklist import DEBIAN, NetworkList
from tests.conformance.runtime import Runtime, error_of, settled, silent
from tests.conformance.subject import Attachment
from tests.conformance.table import at_least, must
from tests.conformance.truth import addresses_of, lies

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="session"),
              pytest.mark.skipif(not DEBIAN.is_dir(), reason="apt-get install containernetworking-plugins")]

PORT_MAP: dict[str, Any] = {"type": "portmap", "capabilities": {"portMappings": True}}
BANDWIDTH: dict[str, Any] = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING: dict[str, Any] = {"type": "tuning", "sysctl": {"net.ipv4.conf.all.log_martians": "1"}, "mtu": 1400}
LISTS: list[list[dict[str, Any]]] = [[PORT_MAP], [BANDWIDTH], [TUNING], [PORT_MAP, BANDWIDTH, TUNING]]
CAPABILITIES = {
    "portMappings": [{"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
}


def _name(others: Sequence[dict[str, Any]]) -> str:
    return "+".join(other["type"] for other in others)


@pytest.mark.parametrize("others", LISTS, ids=_name)
@must("chain", "first of a list: later plugins work on its result; CHECK and DEL of the list succeed, nothing stays",
      "3, Adding, Checking, Deleting an attachment", since="0.3.1", until="1.0.0")
async def test_first_of_a_list(runtime: Runtime, others: list[dict[str, Any]]) -> None:
    attachment = runtime.sandbox()
    before = runtime.plugin.traces()
    chain = NetworkList(runtime, others, CAPABILITIES)
    try:
        result = await chain.add(attachment)
        assert schema.faults_of_result(result, runtime.version) == []
        assert lies(result, runtime.version, attachment, runtime.plugin.node) == []
        assert _at_work(runtime, attachment, result) == {other["type"] for other in others}
        if at_least(runtime.version, "0.4.0"):
            for name, done in await chain.check(attachment):
                # Debian's portmap 1.1.1 looks for rules of IPv6 whether or not the container has such an address.
                if not (name == "portmap" and b"could not check ipv6 dnat" in done.stdout):
                    silent(done)
    finally:
        await chain.delete(attachment)
    assert kernel.links(attachment.netns) == {}
    await settled(runtime.plugin, before)
    assert _at_work(runtime, attachment, result) <= {"tuning"}, "sysctls go with the namespace"


@must("chain", "in a list too, CHECK of the plugin tells that its interface is gone", "3, Checking an attachment",
      since="0.4.0", until="1.0.0", each=False)
async def test_damage_is_told(runtime: Runtime) -> None:
    attachment = runtime.sandbox()
    chain = NetworkList(runtime, LISTS[-1], CAPABILITIES)
    try:
        await chain.add(attachment)
        kernel.ip(attachment.netns, "link", "delete", attachment.ifname)
        _, done = (await chain.check(attachment))[0]
        error_of(done)
    finally:
        await chain.delete(attachment)


def _at_work(runtime: Runtime, attachment: Attachment, result: dict[str, Any]) -> set[str]:
    """Which of the other plugins have done in the kernel what they are for."""
    address = addresses_of(result)[0].partition("/")[0]
    forwarded = f"--to-destination {address}:80" in _in(runtime.plugin.node.name, "iptables-save", "-t", "nat")
    shaped = " tbf " in _in(runtime.plugin.node.name, "tc", "qdisc")
    tuned = _in(attachment.netns.name, "sysctl", "-n", "net.ipv4.conf.all.log_martians").strip() == "1"
    return {name for name, true in (("portmap", forwarded), ("bandwidth", shaped), ("tuning", tuned)) if true}


def _in(namespace: str, *argv: str) -> str:
    done = subprocess.run(["ip", "netns", "exec", namespace, *argv], check=True, capture_output=True, text=True,
                          timeout=30)
    return done.stdout
