"""Annotations about addresses: what they are called, and what may be in them.

=======================================  ===========================  ========  =============================
Calico's                                  Muslin's                     of        value
=======================================  ===========================  ========  =============================
cni.projectcalico.org/ipv4pools           muslin.dev/ipv4-pools        pod, ns   JSON array of names or CIDRs
cni.projectcalico.org/ipv6pools           muslin.dev/ipv6-pools        pod, ns   likewise
cni.projectcalico.org/ipAddrs             muslin.dev/ip-addresses      pod       JSON array of addresses
-                                         muslin.dev/sticky-addresses  pod       duration, such as "10m", or seconds
cni.projectcalico.org/ipAddrsNoIpam       -                            pod       not supported
=======================================  ===========================  ========  =============================
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from muslin.errors import InvalidArgument, Unsupported

POOLS = {4: ("cni.projectcalico.org/ipv4pools", "muslin.dev/ipv4-pools"),
         6: ("cni.projectcalico.org/ipv6pools", "muslin.dev/ipv6-pools")}
"""By family."""
ADDRESSES = ("cni.projectcalico.org/ipAddrs", "muslin.dev/ip-addresses")
STICKY = "muslin.dev/sticky-addresses"
NO_IPAM = "cni.projectcalico.org/ipAddrsNoIpam"

LONGEST_STICKY = 86_400
"""Seconds for which addresses may be kept at most: one day."""

_DURATION = re.compile(r"(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s?)?", re.ASCII)


class Said(NamedTuple):
    """Some texts, and where they were written."""

    texts: tuple[str, ...]
    where: str
    """For people, such as `ipam.ipv4_pools`."""


def strings(annotations: Mapping[str, str], keys: tuple[str, str], of: str) -> Said | None:
    """What an annotation or its twin says; None if neither is there. `of` is whose they are, for people.

    Raises:
        InvalidArgument: it is not a JSON array of strings, or empty; or both are there and differ.
    """
    said = [Said(_array(annotations[key], where), where)
            for key in keys if key in annotations for where in (f"annotation {key} of {of}",)]
    if len(said) == 2 and said[0].texts != said[1].texts:
        raise InvalidArgument(f"{said[0].where} and annotation {keys[1]} differ: keep one of them")
    return said[0] if said else None


def sticky(annotations: Mapping[str, str], of: str) -> int:
    """Seconds for which the addresses are kept for the pod's return; 0 for none.

    Raises:
        InvalidArgument: it is not a duration, or too long.
    """
    if (text := annotations.get(STICKY)) is None:
        return 0
    found = _DURATION.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise InvalidArgument(f"annotation {STICKY} of {of}: {short(text)} is not a duration; write it as \"10m\", "
                              "\"1h30m\" or in seconds")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    if (total := hours * 3600 + minutes * 60 + seconds) > LONGEST_STICKY:
        raise InvalidArgument(f"annotation {STICKY} of {of}: {short(text)} is longer than a day ({LONGEST_STICKY} s)")
    return total


def check_supported(annotations: Mapping[str, str], of: str) -> None:
    """Raise Unsupported for addresses that no pool is to know of."""
    if NO_IPAM in annotations:
        raise Unsupported(f"annotation {NO_IPAM} of {of} is not supported: every address is of a pool here; use "
                          f"{ADDRESSES[0]} with an address of a pool")


def short(text: str) -> str:
    """A text of any length for an error message, which travels in a header of limited size."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def _array(text: str, where: str) -> tuple[str, ...]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as problem:
        kind = "nested too deeply" if isinstance(problem, RecursionError) else f"not JSON ({problem})"
        raise InvalidArgument(f"{where} is {kind}; write an array of strings, such as [\"...\"]") from None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidArgument(f"{where} must be a JSON array of strings, such as [\"...\"]")
    if not value:
        raise InvalidArgument(f"{where} is empty: remove it, or name something in it")
    return tuple(dict.fromkeys(value))
