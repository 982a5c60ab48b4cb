"""Who calls, and for which node."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import Enum
from typing import Any

import grpc

from muslin.errors import Denied
from muslin.rpc.silent import heard

__all__ = ["NODE_METADATA", "Caller", "Role", "bound_to", "caller_of", "node_of", "require_own"]

Context = grpc.aio.ServicerContext[Any, Any]

NODE_METADATA = "muslin-node"
"""Set by the node daemon on every call it passes through; what a caller puts there is overwritten."""

_NODE_PREFIX = "node:"


class Role(Enum):
    """What a caller is."""

    LOCAL = "local"
    """On a unix socket, whose directory lets in nobody but this process' own user."""
    NODE = "node"
    IPAM = "ipam"
    ENDPOINT = "endpoint"
    POLICY = "policy"
    OPERATOR = "operator"
    NOBODY = "nobody"
    """A certificate of our authority with a name that means nothing here, such as an etcd member's; or none."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An identity: the certificate's common name, read."""

    role: Role
    name: str = ""
    node: str = ""
    """Of role NODE: which. It acts for no other."""

    @classmethod
    def named(cls, common_name: str) -> Caller:
        """`node:NAME`, `operator`, or the name of a service."""
        if common_name.startswith(_NODE_PREFIX) and (node := common_name.removeprefix(_NODE_PREFIX)):
            return cls(Role.NODE, common_name, node)
        role = _BY_NAME.get(common_name, Role.NOBODY)
        return cls(role, common_name)


_BY_NAME = {role.value: role for role in (Role.IPAM, Role.ENDPOINT, Role.POLICY, Role.OPERATOR)}
_LOCAL = Caller(Role.LOCAL, "local")


def caller_of(context: Context) -> Caller:
    """Who calls, as its connection proves it. Of a call in a tunnel that is the tunnel's."""
    known = getattr(context, "caller", None)
    if isinstance(known, Caller):
        return known
    if (peer := context.peer()).startswith("unix:"):
        return _LOCAL
    heard(peer)
    found = context.auth_context()
    names = list(found.get("x509_common_name", ())) if found.get("transport_security_type") == [b"ssl"] else []
    return Caller.named(names[0].decode(errors="replace")) if len(names) == 1 else Caller(Role.NOBODY)


def is_local(context: Context) -> bool:
    """Whether a call comes from this machine, over a unix socket."""
    return caller_of(context).role is Role.LOCAL


def node_of(context: Context, nodename: str) -> str:
    """The node that a call is for: the caller, if it is one; else what metadata, configuration or this host says."""
    if (caller := caller_of(context)).node:
        return caller.node
    for key, value in context.invocation_metadata() or ():
        if key == NODE_METADATA and value:
            return value if isinstance(value, str) else value.decode()
    return nodename or socket.gethostname()


def bound_to(context: Context) -> str:
    """The node whose attachments the caller may touch, and no others; empty if it is not bound to one."""
    return caller_of(context).node


def require_own(bound: str, node: str, what: str) -> None:
    """Raise Denied if a caller that is bound to a node asks about what is on another.

    `what` names it in the message, such as `attachment net/c1/eth0`.
    """
    if bound and node != bound:
        raise Denied(f"{what} is on another node than {bound}, which may only touch what is its own")
