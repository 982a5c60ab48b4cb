"""What the runtime, or the pod by annotation, asks of the pod's interface: a MAC address, limits of its rate.

Where several ask, the runtime's `runtimeConfig` comes first, then CNI_ARGS, then annotations of Muslin's own, then
those that Calico or Kubernetes know.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from muslin.cni.context import Bandwidth
from muslin.cni.netconf import NetConf
from muslin.errors import InvalidArgument

__all__ = ["MAC_ANNOTATIONS", "bandwidth", "mac"]

MAC_ANNOTATIONS = ("muslin.dev/hwAddr", "cni.projectcalico.org/hwAddr")

RATE_ANNOTATIONS = {direction: (f"muslin.dev/{direction}-bandwidth", f"kubernetes.io/{direction}-bandwidth")
                    for direction in ("ingress", "egress")}

LEAST_RATE, GREATEST_RATE = 1_000, 10 ** 15
"""Bits a second that Kubernetes takes in its annotations."""

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(|[kMGTP]|[KMGTP]i)")
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
_DECIMAL = {"": 1, "k": 10 ** 3, "M": 10 ** 6, "G": 10 ** 9, "T": 10 ** 12, "P": 10 ** 15}


def mac(conf: NetConf, args: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """The MAC address that is asked for, in lower case with colons; empty if none is.

    Raises:
        InvalidArgument: it is none, or none that an interface can have.
    """
    for where, value in _asked(conf, args, annotations):
        if value:
            return _checked(where, value)
    return ""


def _asked(conf: NetConf, args: Mapping[str, str], annotations: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "runtimeConfig.mac", conf.runtime_mac
    yield "CNI_ARGS: MAC", args.get("MAC", "")
    for name in MAC_ANNOTATIONS:
        yield f"annotation {name}", annotations.get(name, "")


def _checked(where: str, value: str) -> str:
    if not _MAC.fullmatch(value):
        raise InvalidArgument(f"{where} {value!r} is not a MAC address such as 02:00:00:00:00:01")
    raw = bytes.fromhex(value.replace(":", "").replace("-", ""))
    if raw[0] & 1 or not any(raw):
        raise InvalidArgument(f"{where} {value} is not the address of a single interface: its first byte must be even, "
                              "and not all may be zero")
    return raw.hex(":")


def bandwidth(conf: NetConf, annotations: Mapping[str, str]) -> Bandwidth | None:
    """The limits that are asked for, None if none are.

    Raises:
        InvalidArgument: an annotation is not a rate.
    """
    asked = conf.runtime_bandwidth or Bandwidth()
    made = Bandwidth(asked.ingress_rate or _annotated("ingress", annotations), asked.ingress_burst,
                     asked.egress_rate or _annotated("egress", annotations), asked.egress_burst)
    return made if made.ingress_rate or made.egress_rate else None


def _annotated(direction: str, annotations: Mapping[str, str]) -> int:
    for name in RATE_ANNOTATIONS[direction]:
        if value := annotations.get(name, ""):
            found = _QUANTITY.fullmatch(value)
            if not found:
                raise InvalidArgument(f"annotation {name} {value!r} is not a number of bits a second such as 10M")
            rate = int(float(found[1]) * {**_DECIMAL, **_BINARY}[found[2]])
            if not LEAST_RATE <= rate <= GREATEST_RATE:
                raise InvalidArgument(f"annotation {name} {value} must be 1k to 1P bits a second")
            return rate
    return 0
