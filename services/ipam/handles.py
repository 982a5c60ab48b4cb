"""Handles: which addresses an attachment holds.

The handle is what makes ADD idempotent: it is written in the same transaction as the block, so an attachment that
asks again, for whatever reason, is answered from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from muslin.api.cni.v1 import cni_pb2
from muslin.errors import InvalidArgument

_PART = re.compile(r"[^/\s]+")


class Address(msgspec.Struct, frozen=True):
    """One address of a handle."""

    address: str
    block: str
    """CIDR of the block it is from."""
    sequence: int
    """Of the assignment, as the block has it."""


class Handle(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attachment, where it is and what it holds."""

    network: str
    container_id: str
    ifname: str
    node: str
    namespace: str = ""
    """Of the pod; empty outside Kubernetes."""
    pod: str = ""
    """Name of the pod; empty outside Kubernetes."""
    addresses: tuple[Address, ...] = ()
    created_ms: int = 0
    """Unix milliseconds of the assignment; 0 if that was not written down."""
    sticky: int = 0
    """Seconds for which the addresses are kept for the pod's return once the attachment is gone."""
    kept_until_ms: int = 0
    """Set once the attachment is gone and its addresses are kept: unix milliseconds at which they are freed."""

    @property
    def identity(self) -> str:
        """`network/container/interface`: what a block's slots point to."""
        return f"{self.network}/{self.container_id}/{self.ifname}"


def identity(attachment: cni_pb2.Attachment) -> str:
    """The identity of an attachment's handle.

    Raises:
        InvalidArgument: a part is missing or can not be one.
    """
    return "/".join(_parts(attachment))


def of(attachment: cni_pb2.Attachment, node: str, namespace: str = "", pod: str = "") -> Handle:
    """The handle of an attachment that holds nothing yet.

    Raises:
        InvalidArgument: a part of the identity is missing, or the node.
    """
    network, container, ifname = _parts(attachment)
    check_node(node)
    return Handle(network, container, ifname, node, namespace, pod)


def _parts(attachment: cni_pb2.Attachment) -> tuple[str, str, str]:
    parts = attachment.network, attachment.container_id, attachment.ifname
    for name, value in zip(("network", "container_id", "ifname"), parts, strict=True):
        if not _PART.fullmatch(value):
            raise InvalidArgument(f"attachment.{name} {value!r} must not be empty or hold '/' or white space")
    return parts


def check_node(node: str) -> None:
    """Raise InvalidArgument if this can not be the name of a node."""
    if not _PART.fullmatch(node):
        raise InvalidArgument(f"node {node!r} must not be empty or hold '/' or white space")


@dataclass(frozen=True)
class Request:
    """What an attachment asks for, with names and labels resolved."""

    handle: Handle
    """Who asks: identity and attributes, no addresses."""
    families: tuple[int, ...] = (4,)
    """4, 6 or both; one address of each, all or none."""
    addresses: tuple[str, ...] = ()
    """Specific addresses, at most one of a family; in whichever enabled pool they are."""
    pools: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    """By family the names of the pools allowed, in order. A family that is missing: all that are enabled."""
    sticky_seconds: int = 0
    """Seconds for which the addresses are kept for the pod after release; 0 for none."""
    bound: bool = False
    """Who asks is the handle's node itself: what the attachment has already must be on it, too."""

    @cached_property
    def identity(self) -> str:
        """Of the attachment."""
        return self.handle.identity
