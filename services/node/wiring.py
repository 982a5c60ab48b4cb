"""Wiring a pod as planned: making the veth, undoing it, finding what is ours. Blocks, and belongs on a thread."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from muslin.errors import AlreadyExists, FailedPrecondition, InvalidArgument, IOFailure, NotFound
from services.node.attachment import ALIAS_PREFIX, Attachment
from services.node.errors import KernelError
from services.node.netlink import links, settings
from services.node.netlink.connection import Connection
from services.node.netlink.links import Link
from services.node.wiring_plan import HOST_MAC, HOST_SETTINGS_6, Wiring, host_requests, pod_requests

__all__ = ["Wired", "Wiring", "owned_links", "remove_unfinished", "replaceable", "unwire", "wire"]

log = logging.getLogger(__name__)

UNFINISHED_PREFIX = "mus-"
"""Begins the name of a veth whose own name is still taken. No finished one has such a name."""

UNFINISHED_GROUP = 0x6D750001
"""Link group of veths in the making.

The kernel can not be told the owner of a link while it is made, only after; but its group. A link leaves the group in
the request that gives it its owner, so one that is not in it has its owner, even if the daemon is killed between any
two requests."""

DELETION_GROUP = 0x6D75736C
"""Link group that host ends are put into to be deleted together."""

CARRIER_SECONDS = 1.0
"""How long to wait for the host end to pass packets: the kernel's link watch runs at least once a second."""


@dataclass(frozen=True, slots=True)
class Wired:
    """What was made. MTU in bytes."""

    host_index: int
    mtu: int


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
        FailedPrecondition: a setting that IPv6 needs can not be made.
        KernelError: another refusal.
    """
    with _opened(wiring) as (pod, namespace):
        made = _create(host, wiring, namespace)
        try:
            if made.name != wiring.host_interface:
                _take_name(host, wiring, made.index)
            host.request(host_requests(wiring, made.index))
            if 6 in wiring.families:
                _prepare_ipv6(host, pod, wiring)
            pod.request(pod_requests(wiring, made.peer_index))
            _await_carrier(host, made.index)
        except BaseException:
            _delete(host, made.index)
            raise
        return Wired(made.index, made.mtu)


@contextmanager
def _opened(wiring: Wiring) -> Iterator[tuple[Connection, int]]:
    """A connection into the pod's namespace, and an open file of it."""
    try:
        namespace = os.open(wiring.netns, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InvalidArgument(f"CNI_NETNS {wiring.netns} does not exist") from error
    except OSError as error:
        raise IOFailure(f"CNI_NETNS {wiring.netns}: {error.strerror}") from error
    try:
        pod = Connection(wiring.netns)
    except NotFound as error:
        os.close(namespace)
        raise InvalidArgument(f"CNI_NETNS {wiring.netns} does not exist") from error
    except BaseException:
        os.close(namespace)
        raise
    try:
        yield pod, namespace
    finally:
        os.close(namespace)
        pod.close()


def _prepare_ipv6(host: Connection, pod: Connection, wiring: Wiring) -> None:
    """The settings that netlink has no words for. Where /proc/sys may only be read, those that are as they must be do.

    Raises:
        FailedPrecondition: the pod's IPv6 would not work.
    """
    try:
        settings.write(pod, f"ipv6/conf/{wiring.attachment.ifname}/disable_ipv6", 0)
    except KernelError as error:
        if error.errno != errno.ENOENT:  # no /proc/sys, or no IPv6: the addresses say so better
            raise FailedPrecondition(f"in the pod: {error}; set it there, or assign_ipv6 to false") from error
    missing = []
    for name, value in HOST_SETTINGS_6.items():
        try:
            settings.write(host, f"ipv6/conf/{wiring.host_interface}/{name}", value)
        except KernelError as error:
            missing.append(f"{name}={value} ({os.strerror(error.errno)})")
            if name == "force_forwarding" and settings.read(host, "ipv6/conf/all/forwarding") != "1":
                raise FailedPrecondition(
                    "the host does not forward IPv6: set net.ipv6.conf.all.forwarding=1, and accept_ra=2 for an uplink "
                    f"that lives by router advertisements ({error})") from error
    missing = [each for each in missing if not each.startswith("force_forwarding")]
    if missing:
        log.warning("net.ipv6.conf.%s: can not set %s; the pod works without, but not as intended",
                    wiring.host_interface, ", ".join(missing))


def _await_carrier(host: Connection, index: int) -> None:
    """Wait until the host end passes packets.

    It came up before the pod's end did, so without a carrier, and until the kernel's link watch has seen the carrier
    it drops what it is to send: the pod's first answers would be lost. Since Linux 6.8 asking for the link makes the
    kernel look at once; before, it looks within milliseconds.
    """
    deadline = time.monotonic() + CARRIER_SECONDS
    while not links.operational(host, index) and time.monotonic() < deadline:
        time.sleep(0.001)


def _create(host: Connection, wiring: Wiring, namespace: int) -> Link:
    """Make the veth, not up: under its name, or where that is taken under one of its own.

    The pod's name for it must be free: if it is not, the pod is wired.
    """
    try:
        return _made(host, wiring, wiring.host_interface, namespace)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
    try:
        return _made(host, wiring, UNFINISHED_PREFIX + secrets.token_hex(5), namespace)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        raise AlreadyExists(f"interface {wiring.attachment.ifname} exists in {wiring.netns}: DEL it first, or use "
                            "another CNI_IFNAME") from error


def _made(host: Connection, wiring: Wiring, name: str, namespace: int) -> Link:
    request = links.create_veth(name, HOST_MAC, wiring.attachment.ifname, wiring.mac, wiring.mtu, namespace,
                                UNFINISHED_GROUP)
    try:
        replies = host.request([request])[0]
    except KernelError as error:
        if error.errno in (errno.EINVAL, errno.ERANGE):
            raise InvalidArgument(f"the kernel refuses the interface, check mtu and CNI_IFNAME: {error}") from error
        raise
    made = links.parse_link(replies[0]) if replies else links.get(host, name)
    if made is None:
        raise KernelError(errno.ENODEV, f"veth {name} vanished while it was set up")
    return made


def _take_name(host: Connection, wiring: Wiring, index: int) -> None:
    """Give the host end its name and its owner at once; what an earlier container of the pod left gives way."""
    request = links.set_link(index, name=wiring.host_interface, alias=wiring.attachment.alias, group=0)
    existing = links.get(host, wiring.host_interface)
    if existing is not None:
        if not replaceable(existing, wiring.attachment):
            raise AlreadyExists(f"host interface {existing.name} exists and is not ours (kind "
                                f"{existing.kind or '-'}, alias {existing.alias or '-'}): rename or delete it")
        _delete(host, existing.index)
    host.request([request])


def remove_unfinished(host: Connection) -> list[str]:
    """Delete the veths that a killed daemon was making; gives their names. For start-up, before anything is made."""
    found = [link for link in links.listing(host, "veth") if link.group == UNFINISHED_GROUP]
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
