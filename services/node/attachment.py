"""The identity of one interface of one container on one network, as a value."""

from __future__ import annotations

from typing import NamedTuple

from muslin.api.cni.v1 import cni_pb2
from muslin.errors import InvalidArgument
from services.node.netlink.links import ALIAS_BYTES

ALIAS_PREFIX = "muslin:"
"""Begins the alias of every link that is ours."""


class Attachment(NamedTuple):
    """Network name, container id, interface name inside the container."""

    network: str
    container_id: str
    ifname: str

    @classmethod
    def from_message(cls, message: cni_pb2.Attachment) -> Attachment:
        """The value of a message."""
        return cls(message.network, message.container_id, message.ifname)

    def to_message(self) -> cni_pb2.Attachment:
        """The message of a value."""
        return cni_pb2.Attachment(network=self.network, container_id=self.container_id, ifname=self.ifname)

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def alias(self) -> str:
        """What the host end of its veth carries as IFLA_IFALIAS: who owns the link.

        Raises:
            InvalidArgument: it does not fit into the kernel's 255 bytes.
        """
        alias = f"{ALIAS_PREFIX}{self}"
        if len(alias.encode()) > ALIAS_BYTES:
            raise InvalidArgument(f"network name and container id of {self} are too long together: an alias of "
                                  f"{ALIAS_BYTES} bytes must hold them; shorten `name` in the configuration")
        return alias

    @classmethod
    def from_alias(cls, alias: str) -> Attachment | None:
        """The owner that a link's alias names; None if it names none of ours."""
        parts = alias.removeprefix(ALIAS_PREFIX).split("/")
        if not alias.startswith(ALIAS_PREFIX) or len(parts) != 3 or not all(parts):
            return None
        return cls(*parts)
