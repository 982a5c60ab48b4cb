"""How a cluster is reached: its members, and the certificate for them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from muslin.errors import InvalidArgument
from muslin.etcd.cluster import Address
from muslin.tls import Files

__all__ = ["Members"]


@dataclass(frozen=True, slots=True)
class Members:
    """Endpoints, "host:port", and the TLS files; without these etcd is asked in plaintext, on this host only.

    Raises:
        InvalidArgument: there is no endpoint, one is malformed, or plaintext would leave this host.
        Unsupported: "https://" without files.
    """

    endpoints: tuple[str, ...]
    tls: Files | None = None

    @classmethod
    def of(cls, texts: Iterable[str], tls: Files | None) -> Members:
        """From options, each of which may be several with commas between."""
        return cls(tuple(each.strip() for text in texts for each in text.split(",") if each.strip()), tls)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise InvalidArgument("no etcd endpoint is given: name at least one host:port")
        for text in self.endpoints:
            address = Address.parse(text, tls=self.tls is not None)
            if self.tls is None and not _here(address.host):
                raise InvalidArgument(f"etcd endpoint {text!r}: plaintext is for this host only; give --etcd-cert, "
                                      "--etcd-key and --etcd-ca for TLS")


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
