"""What is in a network namespace, as the kernel says it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muslin import netns


@dataclass(frozen=True)
class Link:
    """An interface and its addresses, as `address/prefix length`, without those of link scope."""

    mac: str
    mtu: int
    up: bool
    addresses: frozenset[str]


def ip(namespace: Path, *arguments: str) -> None:
    """Change something; raises if that is not possible."""
    subprocess.run(["ip", "-n", namespace.name, *arguments], check=True, capture_output=True, timeout=30)


def _listed(namespace: Path, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-j", "-n", namespace.name, *arguments], check=True, capture_output=True, timeout=30)
    return [entry for entry in json.loads(done.stdout or b"[]") if entry]


def links(namespace: Path) -> dict[str, Link]:
    """The interfaces by name, but for the loopback."""
    return {link["ifname"]: Link(
        mac=link.get("address", ""), mtu=link["mtu"], up="UP" in link["flags"],
        addresses=frozenset(f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]
                            if address["scope"] != "link" or address["family"] == "inet"))
        for link in _listed(namespace, "address") if link["ifname"] != "lo"}


@dataclass(frozen=True)
class Route:
    """A route of the main table; destinations of one address have no prefix length, all of them are `default`."""

    family: int
    destination: str
    gateway: str
    device: str


def routes(namespace: Path) -> frozenset[Route]:
    """The routes, without those that the kernel itself makes for IPv6."""
    return frozenset(Route(family, route["dst"], route.get("gateway", ""), route.get("dev", ""))
                     for family in (4, 6) for route in _listed(namespace, f"-{family}", "route")
                     if family == 4 or route.get("protocol") != "kernel")


def glance(namespace: Path) -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
    """Names of interfaces, and routes as /proc has them: to be compared, quicker than the lists above."""
    def look() -> tuple[frozenset[str], frozenset[tuple[str, ...]]]:
        net = Path("/proc/thread-self/net")
        names = frozenset(line.partition(":")[0].strip() for line in (net / "dev").read_text().splitlines()[2:])
        four = [line.split() for line in (net / "route").read_text().splitlines()[1:]]
        six = [line.split() for line in (net / "ipv6_route").read_text().splitlines()]
        return names, frozenset({(device, to, gateway, mask) for device, to, gateway, _, _, _, _, mask, *_ in four}
                                | {(entry[-1], entry[0], entry[4], entry[1]) for entry in six
                                   if entry[-1] != "lo" and not entry[0].startswith(("fe80", "ff"))})
    return netns.run(namespace, look)


def verdicts(namespace: Path) -> list[str]:
    """The elements of nf_tables maps."""
    done = subprocess.run(["nsenter", f"--net={namespace}", "nft", "-j", "list", "ruleset"], check=True,
                          capture_output=True, timeout=30)
    return sorted(str(element) for item in json.loads(done.stdout)["nftables"]
                  for element in item.get("map", {}).get("elem", ()))
