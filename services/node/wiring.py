"""Wiring a pod: a veth, one /32 inside, one /32 route outside.

The pod's only neighbour is 169.254.1.1, an address nobody has, whose MAC address it is told; the host is told the
pod's. So no ARP request is ever needed, no subnet exists on the link, and all that a pod sends is routed by the host
and passes its policy.

The functions that build requests are pure; `wire` and `unwire` block and belong on a thread.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from muslin.errors import AlreadyExists, InvalidArgument, IOFailure, NotFound, Unsupported
from services.node.attachment import ALIAS_PREFIX, Attachment
from services.node.errors import KernelError
from services.node.netlink import links, network
from services.node.netlink.connection import Connection, Request
from services.node.netlink.links import Link

GATEWAY = ipaddress.IPv4Address("169.254.1.1")
"""The pod's next hop: link-local, the same for every pod, on no interface (Calico's convention)."""

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""MAC address of every host end: pods know it in advance, also after a move."""

HOST_SETTINGS = {
    "forwarding": 1,  # for packets from this device alone; the host-wide switch stays as the operator has it
    "proxy_arp": 1,  # a pod whose permanent neighbour was flushed still finds 169.254.1.1
    "rp_filter": 1,  # strict: an IPv4 source address must be routed to this very device
    "route_localnet": 1,  # destination-translated traffic may end at 127.0.0.0/8; all other is dropped by our rules
}
"""IPv4 settings of the host end."""

UNFINISHED_PREFIX = "mus-"
"""Begins the name of a veth in the making. No finished one has such a name: theirs end in 11 hexadecimal digits.

The kernel can not be told the owner of a link while it is made, only after. A link gets its name and its owner in one
request, so one that has its name has its owner, even if the daemon is killed between any two requests."""

DELETION_GROUP = 0x6D75736C
"""Link group that host ends are put into to be deleted together."""

CARRIER_SECONDS = 1.0
"""How long to wait for the host end to pass packets: the kernel's link watch runs at least once a second."""

_LOOPBACK = 1
_EVERYWHERE = ipaddress.IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True)
class Wiring:
    """How one attachment is to be wired. MTU in bytes, 0 for the kernel's default (1500)."""

    attachment: Attachment
    netns: str
    host_interface: str
    mac: str
    addresses: tuple[ipaddress.IPv4Address, ...]
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Wired:
    """What was made. MTU in bytes."""

    host_index: int
    mtu: int


def ipv4_addresses(values: Sequence[str]) -> tuple[ipaddress.IPv4Address, ...]:
    """Addresses, with or without prefix length, as wiring takes them.

    Raises:
        InvalidArgument: there is none, or one is not an address.
        Unsupported: one is IPv6.
    """
    found: list[ipaddress.IPv4Address] = []
    for value in values:
        try:
            address = ipaddress.ip_interface(value).ip
        except ValueError as error:
            raise InvalidArgument(f"ips: {error}") from None
        if not isinstance(address, ipaddress.IPv4Address):
            raise Unsupported(f"ips: {address} is IPv6, and pods are wired for IPv4 only: assign_ipv6 must be false")
        found.append(address)
    if not found:
        raise InvalidArgument("ips: the result so far has no address; an IPAM service must run before this one")
    return tuple(found)


def host_requests(wiring: Wiring, index: int) -> list[Request]:
    """What brings the host end up and routes to it."""
    requests = [
        links.set_link(index, up=True, inet=HOST_SETTINGS),
        network.set_neighbour_table(index, proxy_delay=0),
    ]
    for address in wiring.addresses:
        # `replace`: a route that a vanished owner of the address left behind must not keep the new one out.
        requests += [network.add_route(index, ipaddress.ip_network(address), replace=True),
                     network.add_neighbour(index, address, wiring.mac)]
    return requests


def pod_requests(wiring: Wiring, index: int) -> list[Request]:
    """What gives the pod its addresses and its way out."""
    return [
        links.set_link(_LOOPBACK, up=True),
        links.set_link(index, up=True),
        *(network.add_address(index, ipaddress.ip_interface(address)) for address in wiring.addresses),
        network.add_neighbour(index, GATEWAY, HOST_MAC),
        network.add_route(index, ipaddress.ip_network(GATEWAY)),
        network.add_route(index, _EVERYWHERE, GATEWAY),
    ]


def replaceable(existing: Link, attachment: Attachment) -> bool:
    """Whether a link that has the name we need may be deleted for it.

    A name follows from the pod, so the link is what an earlier container of the same pod left, or an earlier try of
    this one, or one whose owner was wiped out. Anything else is somebody's.
    """
    if existing.kind != "veth":
        return False
    return not existing.alias or existing.alias.startswith(ALIAS_PREFIX) or existing.alias == attachment.alias


def wire(host: Connection, wiring: Wiring) -> Wired:
    """Wire a pod. On any error nothing is left of it, and what was there before still is.

    Raises:
        AlreadyExists: the pod has an interface of that name, or the host one that is not ours.
        InvalidArgument: the namespace is gone or none; a name or size that the kernel refuses.
        KernelError: another refusal.
    """
    try:
        pod = Connection(wiring.netns)
        namespace = os.open(wiring.netns, os.O_RDONLY | os.O_CLOEXEC)
    except (NotFound, FileNotFoundError) as error:
        raise InvalidArgument(f"CNI_NETNS {wiring.netns} does not exist") from error
    except OSError as error:
        raise IOFailure(f"CNI_NETNS {wiring.netns}: {error.strerror}") from error
    try:
        made = _create(host, wiring, namespace)
        try:
            _claim(host, wiring, made.index)
            host.request(host_requests(wiring, made.index))
            pod.request(pod_requests(wiring, made.peer_index))
            _await_carrier(host, wiring.host_interface)
        except BaseException:
            _delete(host, made.index)
            raise
        return Wired(made.index, made.mtu)
    finally:
        os.close(namespace)
        pod.close()


def _await_carrier(host: Connection, name: str) -> None:
    """Wait until the host end passes packets.

    It came up before the pod's end did, so without a carrier, and until the kernel's link watch has seen the carrier
    it drops what it is to send: the pod's first answers would be lost. Since Linux 6.8 asking for the link makes the
    kernel look at once; before, it looks within milliseconds.
    """
    deadline = time.monotonic() + CARRIER_SECONDS
    while (link := links.get(host, name)) is not None and not link.operational and time.monotonic() < deadline:
        time.sleep(0.001)


def _create(host: Connection, wiring: Wiring, namespace: int) -> Link:
    """Make the veth under a name of its own. The pod's name for it must be free: if it is not, the pod is wired."""
    ifname, name = wiring.attachment.ifname, UNFINISHED_PREFIX + secrets.token_hex(5)
    try:
        host.request([links.create_veth(name, HOST_MAC, ifname, wiring.mac, wiring.mtu, namespace)])
    except KernelError as error:
        if error.errno in (errno.EINVAL, errno.ERANGE):
            raise InvalidArgument(f"the kernel refuses the interface, check mtu and CNI_IFNAME: {error}") from error
        if error.errno == errno.EEXIST:
            raise AlreadyExists(f"interface {ifname} exists in {wiring.netns}: DEL it first, or use another "
                                "CNI_IFNAME") from error
        raise
    if (made := links.get(host, name)) is None:
        raise KernelError(errno.ENODEV, f"veth {name} vanished while it was set up")
    return made


def _claim(host: Connection, wiring: Wiring, index: int) -> None:
    """Give the host end its name and its owner at once; what an earlier container of the pod left gives way."""
    request = links.set_link(index, name=wiring.host_interface, alias=wiring.attachment.alias)
    try:
        host.request([request])
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        existing = links.get(host, wiring.host_interface)
        if existing is not None:
            if not replaceable(existing, wiring.attachment):
                raise AlreadyExists(f"host interface {existing.name} exists and is not ours (kind "
                                    f"{existing.kind or '-'}, alias {existing.alias or '-'}): rename or delete it"
                                    ) from error
            _delete(host, existing.index)
        host.request([request])


def remove_unfinished(host: Connection) -> list[str]:
    """Delete the veths that a killed daemon was making; gives their names. For start-up, before anything is made."""
    found = [link for link in links.listing(host, "veth")
             if link.name.startswith(UNFINISHED_PREFIX) and not link.alias]
    for link in found:
        _delete(host, link.index)
    return [link.name for link in found]


def unwire(host: Connection, owned: Sequence[tuple[Attachment, str]]) -> list[str]:
    """Delete host ends, each only if it is still the attachment's own; gives the names deleted.

    Deleting one link costs the kernel about 20 ms of waiting, deleting a group hardly more: several go as a group.
    """
    found = [link for attachment, name in owned
             if (link := links.get(host, name)) is not None and link.alias == attachment.alias]
    if len(found) > 1:
        try:
            host.request([links.set_link(link.index, group=DELETION_GROUP) for link in found])
            host.request([links.delete_group(DELETION_GROUP)])
            return [link.name for link in found]
        except KernelError as error:
            if error.errno != errno.ENODEV:  # one of them went by itself: take the others one by one
                raise
    for link in found:
        _delete(host, link.index)
    return [link.name for link in found]


def _delete(host: Connection, index: int) -> None:
    try:
        host.request([links.delete(index)])
    except KernelError as error:
        if error.errno != errno.ENODEV:
            raise


def owned_links(host: Connection) -> dict[Attachment, Link]:
    """All host ends that are ours, by their alias: what this node has wired, whoever asks."""
    owned: dict[Attachment, Link] = {}
    for link in links.listing(host, "veth"):
        attachment = Attachment.from_alias(link.alias)
        if attachment is not None:
            owned[attachment] = link
    return owned
