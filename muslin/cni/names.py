"""Names and addresses that follow from an attachment's identity, the same on every node and after every restart."""

from __future__ import annotations

import hashlib

from muslin.api.cni.v1 import cni_pb2

CALICO_PREFIX = "cali"
"""Host end of the veth when the plugin is installed as `calico`: tools of its users look for it."""

MUSLIN_PREFIX = "mus"

_HASH_DIGITS = 11


LONGEST_PREFIX = 15 - _HASH_DIGITS
"""Bytes: an interface name has at most 15 (IFNAMSIZ)."""


def prefix(plugin_type: str, own: str = "") -> str:
    """Prefix of host interface names: the configuration's own, else by its `type`."""
    return own or (CALICO_PREFIX if plugin_type == "calico" else MUSLIN_PREFIX)


def host_interface(prefix: str, workload: str, ifname: str = "eth0") -> str:
    """Name of the host end: the prefix and 11 hex digits of SHA-1 of the workload, as Calico names it.

    The workload is `<namespace>.<pod>`, or the container id. An interface other than eth0 is hashed in as well, so
    that a pod can have several.
    """
    if len(prefix) > LONGEST_PREFIX:
        raise ValueError(f"interface prefix {prefix!r} is longer than {LONGEST_PREFIX} bytes")
    subject = workload if ifname == "eth0" else f"{workload}.{ifname}"
    return prefix + hashlib.sha1(subject.encode(), usedforsecurity=False).hexdigest()[:_HASH_DIGITS]


def mac_address(attachment: cni_pb2.Attachment) -> str:
    """MAC address of the container end: locally administered, unicast, stable for the attachment."""
    subject = f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"
    digest = bytearray(hashlib.sha1(subject.encode(), usedforsecurity=False).digest()[:6])
    digest[0] = digest[0] & 0xFC | 0x02
    return digest.hex(":")


def attachment_text(attachment: cni_pb2.Attachment) -> str:
    """`network/container/interface`, for logs, keys and aliases."""
    return f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"
