"""CIDRs as Kubernetes takes them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from services.policy.fields import Field, Untranslatable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LEADING_ZERO = re.compile(r"(^|\.)0+(?=[0-9])")
_CIDR = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")


def network(field: Field) -> Network:
    """The network that a CIDR means; bits behind the prefix do not count.

    Raises:
        FieldError: it is none.
        Untranslatable: programs read it in different ways: it has numbers with leading zeros, which are octal to
            some, or is IPv4 written as IPv6.
    """
    text = field.text()
    if not _CIDR.fullmatch(text):
        raise field.error(f"{text!r} is not a CIDR: write address/length, as in 10.0.0.0/8")
    zeros = ":" not in text and _LEADING_ZERO.search(text.partition("/")[0]) is not None
    try:
        result = ipaddress.ip_network(_LEADING_ZERO.sub(r"\1", text) if zeros else text, strict=False)
    except ValueError:
        raise field.error(f"{text!r} is not a CIDR: write address/length, as in 10.0.0.0/8") from None
    if zeros:
        raise Untranslatable(field.path, f"{text!r} has numbers with leading zeros, octal to some; write {result}")
    if result.version == 6 and result.network_address.ipv4_mapped is not None:
        raise Untranslatable(field.path, f"{text!r} is an IPv4 address written as IPv6; write it as IPv4")
    return result


def merged(networks: Iterable[Network]) -> list[tuple[str, ...]]:
    """The same addresses in the fewest CIDRs, one tuple for each address family that occurs."""
    given = list(networks)
    four = ipaddress.collapse_addresses(n for n in given if isinstance(n, ipaddress.IPv4Network))
    six = ipaddress.collapse_addresses(n for n in given if isinstance(n, ipaddress.IPv6Network))
    families = (tuple(map(str, four)), tuple(map(str, six)))
    return [family for family in families if family]
