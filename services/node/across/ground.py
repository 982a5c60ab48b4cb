"""What the kernel has of routes and VXLAN, brought to what it is to have. Blocks; for a thread.

Everything is read each time and only the differences written: what others change is undone, and a daemon that starts
changes nothing that is as it must be. What packets need comes first, what they need no more is taken away last.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from services.node.across.plan import OVERHEAD, Encapsulation, Own, Plan, mac_of
from services.node.errors import KernelError
from services.node.netlink import links, network, rules, settings, vxlan, ways
from services.node.netlink.connection import Connection, Request
from services.node.netlink.network import IPAddress
from services.node.netlink.rules import Choice
from services.node.netlink.vxlan import Tunnel
from services.node.netlink.ways import Kind, Way

__all__ = ["ALIAS", "DEVICE", "Done", "Underlay", "apply", "clear", "look", "remove_tunnel"]

DEVICE = "vxlan.muslin"
"""Begins as no interface of a pod does: those are dropped until they have a policy."""
ALIAS = "muslin-node: VXLAN to other nodes"
"""Marks the device as ours."""

_TABLES = dict(zip((Encapsulation.VXLAN, Encapsulation.CROSS_SUBNET), ways.TABLES, strict=True))

_AT_ONCE = 200
"""Requests in one datagram; their refusals must fit into the socket's buffer."""

_SETTINGS = {"forwarding": 1, "rp_filter": 1}
"""Of the VXLAN device, for IPv4: what comes by it must be from where it would be sent to."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """What this node finds of the network between nodes."""

    addresses: dict[int, IPAddress]
    """Its own, by family, by which it sends to what is far."""
    uplinks: frozenset[int]
    """Links, by index, that lead out by default."""
    links: frozenset[int]
    """Those that have one of the addresses that the node was told to have."""
    on_link: dict[IPAddress, int]
    """Of the addresses asked for, those on a link of ours, with its index."""


@dataclass
class Done:
    """What was changed, and what can not be."""

    changed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    forwarded: list[str] = field(default_factory=list)
    """Links whose packets were not forwarded before, and are now."""


def look(connection: Connection, outside: Iterable[IPAddress], own: Iterable[IPAddress],
         others: Iterable[IPAddress]) -> Underlay:
    """Find the ways to what is outside, and to other nodes, and the links of our own addresses. Raises KernelError."""
    tunnel = links.get(connection, DEVICE)
    addresses: dict[int, IPAddress] = {}
    uplinks: set[int] = set()
    for address in outside:
        if (found := ways.directions(connection, address)) is not None:
            uplinks.add(found.device)
            if found.source is not None and not found.source.is_link_local:
                addresses[address.version] = found.source
    on_link = {}
    for address in others:
        found = ways.directions(connection, address)
        if found is not None and found.gateway is None and (tunnel is None or found.device != tunnel.index):
            on_link[address] = found.device
    told = set(own)
    mine = frozenset(each.index for each in network.addresses(connection) if each.address.ip in told) if told \
        else frozenset[int]()
    return Underlay(addresses, frozenset(uplinks), mine, on_link)


def apply(connection: Connection, own: Own, plan: Plan, *, vni: int, port: int, mtu: int,
          uplinks: Iterable[int]) -> Done:
    """Bring routes and VXLAN to the plan. `mtu` is that of the uplink, `uplinks` carry packets of pods.

    What can not be done is named in the result; all else is done. Raises KernelError if the kernel can not be read.
    """
    done = Done()
    index = 0
    if plan.tunnel:
        try:
            index = _tunnel(connection, Tunnel(vni, port, own.addresses[own.underlay], mac_of(own.node)),
                            max(mtu - OVERHEAD[own.underlay], 1280), done)
            _peers(connection, plan, index, done)
        except KernelError as error:
            done.problems.append(f"VXLAN: {error}")
    # VXLAN's device has no address: which of this host's its own packets have is for us to say, if it is there.
    mine = {each.address.ip for each in network.addresses(connection)} if index else set()
    sources = {version: address for version, address in own.addresses.items() if address in mine}
    wanted = {Way(destination, step.kind, (step.link or index) if step.kind is Kind.FORWARD else 0, step.gateway,
                  sources.get(destination.version) if step.kind is Kind.FORWARD and not step.link else None)
              for destination, step in plan.steps.items() if step.kind is not Kind.FORWARD or step.link or index}
    if index:
        wanted |= {Way(destination, step.kind, index, step.gateway, table=_TABLES[mode])
                   for mode, steps in plan.back.items() for destination, step in steps.items()}
    there = set(ways.listing(connection))
    _send(connection, [ways.add(way) for way in wanted - there], done)
    _choices(connection, {Choice(pool, _TABLES[mode]) for pool, mode in plan.pools.items()} if index else set(), done)
    kept = {(way.table, way.destination) for way in wanted}
    _send(connection, [ways.delete(way) for way in there - wanted if (way.table, way.destination) not in kept], done)
    if not plan.tunnel:
        remove_tunnel(connection, done)
    forwarding = {way.device for way in wanted if way.kind is Kind.FORWARD} | set(uplinks)
    ipv6 = any(way.kind is Kind.FORWARD and way.destination.version == 6 for way in wanted)
    for device in sorted(forwarding):
        _forward(connection, device, done, ipv6=ipv6)
    return done


def _tunnel(connection: Connection, tunnel: Tunnel, mtu: int, done: Done) -> int:
    """The index of the device, as it is to be. Raises KernelError."""
    link = links.get(connection, DEVICE)
    if link is not None:
        there = vxlan.get(connection, link.index)
        if there != tunnel:
            if link.alias != ALIAS:
                raise KernelError(errno.EEXIST, f"link {DEVICE} is somebody else's; delete it")
            connection.request([links.delete(link.index)])
            done.changed.append(f"deleted {DEVICE}, which was made for something else")
            link = None
    if link is None:
        connection.request([vxlan.create(DEVICE, tunnel, mtu)])
        link = links.get(connection, DEVICE)
        if link is None:
            raise KernelError(errno.ENODEV, f"link {DEVICE} went at once")
        done.changed.append(f"made {DEVICE}")
    elif link.mtu != mtu:
        connection.request([vxlan.set_mtu(link.index, mtu)])
        done.changed.append(f"set the MTU of {DEVICE} to {mtu}")
    if not link.up or link.alias != ALIAS:
        connection.request([links.set_link(link.index, up=True, alias=ALIAS, inet=_SETTINGS)])
        done.changed.append(f"set {DEVICE} up")
    return link.index


def _choices(connection: Connection, wanted: set[Choice], done: Done) -> None:
    there = rules.listing(connection)
    surplus = [choice for choice in set(there) for _ in range(there.count(choice) - (choice in wanted))]
    _send(connection, [*(rules.add(choice) for choice in wanted - set(there)), *map(rules.delete, surplus)], done)


def _peers(connection: Connection, plan: Plan, index: int, done: Done) -> None:
    remotes = {(peer.mac, peer.remote) for peer in plan.peers}
    neighbours = {(gateway, peer.mac) for peer in plan.peers for gateway in peer.gateways}
    has_remotes = vxlan.remotes(connection, index)
    has_neighbours = {(each.address, each.mac) for each in network.neighbours(connection, index) if each.permanent}
    _send(connection, [*(vxlan.add_remote(index, *each) for each in remotes - has_remotes),
                       *(network.add_neighbour(index, *each) for each in neighbours - has_neighbours)], done)
    macs, gateways = {mac for mac, _ in remotes}, {gateway for gateway, _ in neighbours}
    _send(connection, [*(vxlan.delete_remote(index, *each) for each in has_remotes - remotes if each[0] not in macs),
                       *(vxlan.delete_neighbour(index, address) for address, mac in has_neighbours - neighbours
                         if address not in gateways)], done)


def _forward(connection: Connection, device: int, done: Done, *, ipv6: bool) -> None:
    """Let a link's packets be forwarded: IPv4 over netlink; IPv6 by its own switch, or if the host does so anyway."""
    link = links.get(connection, device)
    if link is None:
        return
    if settings.read(connection, f"ipv4/conf/{link.name}/forwarding") != "1":
        connection.request([links.set_link(link.index, inet={"forwarding": 1})])
        if link.name != DEVICE:
            done.forwarded.append(link.name)
        done.changed.append(f"let packets of {link.name} be forwarded")
    if ipv6 and settings.read(connection, "ipv6/conf/all/forwarding") != "1":
        try:
            settings.write(connection, f"ipv6/conf/{link.name}/force_forwarding", 1)
        except KernelError as error:
            done.problems.append(f"IPv6 of {link.name} is not forwarded: set net.ipv6.conf.all.forwarding=1 ({error})")


def _send(connection: Connection, requests: Sequence[Request], done: Done) -> None:
    done.changed += [request.what for request in requests]
    for start in range(0, len(requests), _AT_ONCE):
        rest = requests[start:start + _AT_ONCE]
        try:
            connection.request(rest)  # the kernel goes on past one that it refuses
        except KernelError as error:
            if error.errno not in (errno.ESRCH, errno.ENOENT):  # to be deleted, and gone
                done.problems.append(str(error))


def remove_tunnel(connection: Connection, done: Done) -> None:
    """Delete the device, if it is there and ours. Raises KernelError."""
    link = links.get(connection, DEVICE)
    if link is not None and link.alias == ALIAS:
        connection.request([links.delete(link.index)])
        done.changed.append(f"deleted {DEVICE}")


def clear(connection: Connection, forwarded: Iterable[str]) -> list[str]:
    """Remove all of it, and forward no longer what was not before; says what there was. Raises KernelError."""
    for name in forwarded:
        if (link := links.get(connection, name)) is not None:
            connection.request([links.set_link(link.index, inet={"forwarding": 0})])
    done, there = Done(), ways.listing(connection)
    _choices(connection, set(), done)
    _send(connection, [ways.delete(way) for way in there], done)
    done.changed = []
    remove_tunnel(connection, done)
    return [*(f"route {way.destination}" for way in there), *(f"link {DEVICE}" for _ in done.changed)]
