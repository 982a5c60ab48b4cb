"""Handles: which addresses an attachment holds.

The handle is what makes ADD idempotent: it is written in the same transaction as the block, so an attachment that
asks again, for whatever reason, is answered from it.
"""

from __future__ import annotations

import re

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


class Handle(msgspec.Struct, frozen=True):
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

    @property
    def identity(self) -> str:
        """`network/container/interface`: what a block's slots point to."""
        return f"{self.network}/{self.container_id}/{self.ifname}"


def identity(attachment: cni_pb2.Attachment) -> str:
    """The identity of an attachment's handle.

    Raises:
        InvalidArgument: a part is missing or can not be one.
    """
    for field in ("network", "container_id", "ifname"):
        if not _PART.fullmatch(value := getattr(attachment, field)):
            raise InvalidArgument(f"attachment.{field} {value!r} must not be empty or hold '/' or white space")
    return f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"


def of(attachment: cni_pb2.Attachment, node: str, namespace: str = "", pod: str = "") -> Handle:
    """The handle of an attachment that holds nothing yet.

    Raises:
        InvalidArgument: a part of the identity is missing, or the node.
    """
    identity(attachment)
    if not _PART.fullmatch(node):
        raise InvalidArgument(f"node {node!r} must not be empty or hold '/' or white space")
    return Handle(attachment.network, attachment.container_id, attachment.ifname, node, namespace, pod)
