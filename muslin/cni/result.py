"""The result of ADD, read and written in every version of the specification.

0.1.0 and 0.2.0 have `ip4` and `ip6`; 0.3.0 to 0.4.0 have a list `ips` whose entries carry their family as `version`;
1.0.0 and later have the list without it (CNI specification, "Result", and its upgrade notes).
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from muslin.errors import Corrupt, InvalidArgument

_OLDEST = ("0.1.0", "0.2.0")
_MIDDLE = ("0.3.0", "0.3.1", "0.4.0")


@dataclass(frozen=True)
class Interface:
    """An interface that ADD made. `sandbox` is the namespace's path; empty for the host end."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else another plugin says of it, such as `socketPath`; since 1.1.0, as `mtu`."""


@dataclass(frozen=True)
class IPConfig:
    """An address with its prefix length; `interface` is an index into the interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


@dataclass(frozen=True)
class Route:
    """A route in the container; an empty gateway means on-link."""

    dst: str
    gw: str = ""
    more: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What else another plugin says of it, such as `mtu` and `table`; since 1.1.0."""


@dataclass(frozen=True)
class Result:
    """What ADD answers."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Mapping[str, Any] = field(default_factory=dict)


def parse(raw: bytes) -> Result:
    """Read a result of any version; empty bytes are the empty result.

    Raises:
        Corrupt: it is not a result.
    """
    if not raw:
        return Result()
    try:
        document = json.loads(raw)
        return _modern(document) if "ips" in document or not {"ip4", "ip6"} & set(document) else _oldest(document)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise Corrupt(f"result of an earlier plugin is not a CNI result: {problem!r}") from None


def previous(given: Mapping[str, Any] | None) -> Result:
    """What ADD, of the whole list of plugins, answered: a configuration's prevResult.

    Raises:
        InvalidArgument: there is none.
        Corrupt: it is no result.
    """
    if not given:
        raise InvalidArgument("prevResult is missing from the network configuration: CHECK compares with it")
    return parse(json.dumps(dict(given)).encode())


def _modern(document: Mapping[str, Any]) -> Result:
    return Result(
        interfaces=tuple(Interface(i["name"], i.get("mac", ""), i.get("mtu", 0), i.get("sandbox", ""),
                                   _more(i, "name", "mac", "mtu", "sandbox"))
                         for i in document.get("interfaces") or ()),
        ips=tuple(IPConfig(i["address"], i.get("gateway", ""), i.get("interface")) for i in document.get("ips") or ()),
        routes=_routes(document.get("routes")),
        dns=document.get("dns") or {},
    )


def _oldest(document: Mapping[str, Any]) -> Result:
    families = [document[key] for key in ("ip4", "ip6") if document.get(key)]
    return Result(
        ips=tuple(IPConfig(f["ip"], f.get("gateway", "")) for f in families),
        routes=tuple(route for f in families for route in _routes(f.get("routes"))),
        dns=document.get("dns") or {},
    )


def _routes(listed: Any) -> tuple[Route, ...]:
    return tuple(Route(r["dst"], r.get("gw", ""), _more(r, "dst", "gw")) for r in listed or ())


def _more(document: Mapping[str, Any], *known: str) -> Mapping[str, Any]:
    return {name: value for name, value in document.items() if name not in known}


def render(result: Result, cni_version: str) -> bytes:
    """Write a result in a version of the specification."""
    document: dict[str, Any] = {"cniVersion": cni_version}
    if cni_version in _OLDEST:
        document.update(_render_oldest(result))
    else:
        document.update(_render_modern(result, cni_version))
    document["dns"] = dict(result.dns)
    return json.dumps(document, separators=(",", ":")).encode()


def _render_oldest(result: Result) -> dict[str, Any]:
    """The first address of each family; the routes go with their family."""
    document: dict[str, Any] = {}
    for ip in result.ips:
        family = ipaddress.ip_interface(ip.address).version
        if (key := f"ip{family}") not in document:
            routes = [_route(r) for r in result.routes if ipaddress.ip_network(r.dst).version == family]
            document[key] = {"ip": ip.address} | ({"gateway": ip.gateway} if ip.gateway else {}) | \
                ({"routes": routes} if routes else {})
    return document


def _render_modern(result: Result, cni_version: str) -> dict[str, Any]:
    def interface(i: Interface) -> dict[str, Any]:
        made: dict[str, Any] = {"name": i.name}
        if i.mac:
            made["mac"] = i.mac
        if i.mtu and cni_version == "1.1.0":  # the field is new there
            made["mtu"] = i.mtu
        if i.sandbox:
            made["sandbox"] = i.sandbox
        return made | (dict(i.more) if cni_version == "1.1.0" else {})

    def ip(i: IPConfig) -> dict[str, Any]:
        made: dict[str, Any] = {"address": i.address}
        if cni_version in _MIDDLE:
            made["version"] = str(ipaddress.ip_interface(i.address).version)
        if i.gateway:
            made["gateway"] = i.gateway
        if i.interface is not None:
            made["interface"] = i.interface
        return made

    document: dict[str, Any] = {"interfaces": [interface(i) for i in result.interfaces],
                                "ips": [ip(i) for i in result.ips]}
    if result.routes:
        document["routes"] = [_route(r) | (dict(r.more) if cni_version == "1.1.0" else {}) for r in result.routes]
    return document


def _route(route: Route) -> dict[str, Any]:
    return {"dst": route.dst} | ({"gw": route.gw} if route.gw else {})
