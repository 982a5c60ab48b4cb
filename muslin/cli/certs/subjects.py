"""Who gets a certificate: names, the hosts they answer at, and whether they serve. Pure.

The common name is the identity (muslin.rpc.access says what each may do), and towards etcd the user.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muslin.errors import InvalidArgument

__all__ = ["Subject", "subjects", "ETCD", "SERVICES", "OPERATOR", "ETCD_ROOT", "NODES"]

ETCD = ("etcd1", "etcd2", "etcd3")
SERVICES = ("ipam", "endpoint", "policy")
OPERATOR = "operator"
ETCD_ROOT = "etcd-root"
"""Folder of the certificate for `muslin etcd-auth`; its common name is that of etcd's own superuser, `root`."""
NODES = ("node1", "node2", "node3")

_REPLICAS = 3
_HERE = ("localhost", "127.0.0.1", "::1")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_COMMON_NAME_MOST = 64  # X.520, ub-common-name


@dataclass(frozen=True, slots=True)
class Subject:
    """One certificate: its folder, its common name, the hosts it serves at (none: it only calls)."""

    name: str
    common_name: str
    hosts: tuple[str, ...] = ()


def subjects(nodes: Sequence[str], hosts: Iterable[str]) -> list[Subject]:
    """All certificates of a cluster.

    `hosts` are `NAME=HOST[,HOST...]`, more hosts of the one called NAME, or `HOST`, one more of all that serve. A
    service answers at its name, and its replicas at that with a number (`ipam`, `ipam1`, `ipam-1`).

    Raises:
        InvalidArgument: a name or host is none, two are called the same, or NAME is nobody's.
    """
    own: dict[str, tuple[str, ...]] = {name: (name,) for name in ETCD}
    own |= {name: (name, *(f"{name}{dash}{number}" for dash in ("", "-") for number in range(1, _REPLICAS + 1)))
            for name in SERVICES}
    taken = {host for several in own.values() for host in several} | {OPERATOR, ETCD_ROOT, *_HERE}
    for node in nodes:
        if not _NAME.fullmatch(node) or len(f"node:{node}") > _COMMON_NAME_MOST:
            raise InvalidArgument(f"--node {node}: use a DNS name in lower case, of at most {_COMMON_NAME_MOST - 5} "
                                  "characters")
        if node in taken:
            raise InvalidArgument(f"--node {node}: the name is taken, by another node or one of {', '.join(own)}, "
                                  f"{OPERATOR}, {ETCD_ROOT}")
        taken.add(node)
        own[node] = (node,)
    more = _more(hosts, own)
    known = {name: f"node:{name}" if name in nodes else name for name in own}
    found = [Subject(name, known[name], tuple(dict.fromkeys((*first, *_HERE, *more[name]))))
             for name, first in own.items()]
    return [*found, Subject(OPERATOR, OPERATOR), Subject(ETCD_ROOT, "root")]


def _more(hosts: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for text in hosts:
        name, equals, listed = text.rpartition("=")
        if equals and name not in found:
            raise InvalidArgument(f"--hosts {text}: nobody is called {name!r}; use one of {', '.join(found)}")
        for host in listed.split(","):
            if not is_address(host) and not _NAME.fullmatch(host):
                raise InvalidArgument(f"--hosts {text}: {host!r} is neither a DNS name in lower case nor an IP address")
            for each in [name] if equals else found:
                found[each].append(host)
    return found


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
