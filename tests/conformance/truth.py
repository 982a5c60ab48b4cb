"""Whether a result says what the kernel says."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.conformance import kernel
from tests.conformance.subject import Attachment
from tests.conformance.table import at_least


def addresses_of(result: Mapping[str, Any]) -> list[str]:
    """Every address, with its prefix length, in a result of any version."""
    if "ips" in result:
        return [entry["address"] for entry in result["ips"]]
    return [result[key]["ip"] for key in ("ip4", "ip6") if result.get(key)]


def routes_of(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Destination and gateway of every route, in a result of any version."""
    listed = [*(result.get("routes") or ())]
    for key in ("ip4", "ip6"):
        listed += (result.get(key) or {}).get("routes") or ()
    return [(route["dst"], route.get("gw", "")) for route in listed]


def lies(result: Mapping[str, Any], version: str, attachment: Attachment, node: Path) -> list[str]:
    """What a result of the right shape says that is not so."""
    inside, outside = kernel.links(attachment.netns), kernel.links(node)
    link = inside.get(attachment.ifname)
    if link is None:
        return [f"no {attachment.ifname} in the namespace, which has {sorted(inside)}"]
    found = [] if link.up else [f"{attachment.ifname} is down"]
    if not addresses_of(result):
        found.append("no address")
    found += [f"{attachment.ifname} has not {address}" for address in addresses_of(result)
              if _normal(address) not in link.addresses]
    if at_least(version, "0.3.0"):
        found += _about_interfaces(result, attachment, inside, outside)
    return [*found, *_about_routes(result, attachment)]


def _about_interfaces(result: Mapping[str, Any], attachment: Attachment, inside: Mapping[str, kernel.Link],
                      outside: Mapping[str, kernel.Link]) -> Iterator[str]:
    own = {"name": attachment.ifname, "sandbox": str(attachment.netns)}
    if not any(own.items() <= interface.items() for interface in result["interfaces"]):
        yield f"interfaces has none with {own}"
    for interface in result["interfaces"]:
        sandbox = interface.get("sandbox", "")
        if sandbox not in ("", str(attachment.netns)):
            yield f"{interface['name']} is in {sandbox}, which is not CNI_NETNS"
            continue
        real = (inside if sandbox else outside).get(interface["name"])
        if real is None:
            yield f"there is no interface {interface['name']} in {sandbox or 'the host'}"
            continue
        if interface.get("mac", real.mac).lower() != real.mac:
            yield f"{interface['name']} has {real.mac}, not {interface['mac']}"
        if interface.get("mtu", real.mtu) != real.mtu:
            yield f"{interface['name']} has MTU {real.mtu}, not {interface['mtu']}"
    for entry in result["ips"]:
        index = entry.get("interface")
        if index is not None and not own.items() <= result["interfaces"][index].items():
            yield f"{entry['address']} is not of {attachment.ifname} but of interface {index}"


def _about_routes(result: Mapping[str, Any], attachment: Attachment) -> Iterator[str]:
    real = kernel.routes(attachment.netns)
    for destination, gateway in routes_of(result):
        network = ipaddress.ip_network(destination, strict=False)
        if not any(route.family == network.version and route.device == attachment.ifname
                   and _network(route) == network and gateway in ("", route.gateway) for route in real):
            yield f"there is no route to {destination} by {gateway or 'any gateway'} in {sorted(map(str, real))}"


def _network(route: kernel.Route) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    everything = "0.0.0.0/0" if route.family == 4 else "::/0"
    return ipaddress.ip_network(everything if route.destination == "default" else route.destination)


def _normal(address: str) -> str:
    return str(ipaddress.ip_interface(address))
