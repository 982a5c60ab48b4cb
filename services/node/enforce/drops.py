"""Where packets are dropped: each cause has three rules that tell a watcher, count, and drop.

All of it is on the way of dropped packets only. They are counted for each interface and cause in one set that grows
as drops happen, so that policies stay shared by endpoints. A watched interface is an element with a time to live: a
watcher that dies, whatever of, leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.node.enforce import names
from services.node.enforce.names import Direction, Reason
from services.node.nft import expressions as x
from services.node.nft.expressions import KeyType
from services.node.nft.messages import EXPIRING, GROWING

__all__ = ["DROPS_KEY", "INTERFACE_BYTES", "LOG_BURST", "LOG_RATE", "LOOSE_SETS", "REPORT_GROUP", "Loose", "drop_rules",
           "log_prefix", "log_rule", "reason_rules"]

REPORT_GROUP = 0x6d75
"""Group of nfnetlink_log that drops of watched interfaces are sent to; nobody listens but the daemon, when asked."""

REPORT_RATE, REPORT_BURST = 50, 100
"""Packets a second that one cause reports at most."""

REPORT_BYTES = 96
"""Of a reported packet: its headers, options of IPv4 included."""

LOG_RATE, LOG_BURST = 10, 50
"""Lines a second that one Log rule writes at most."""

DENIED = "denied"
"""What stands in a line of the log in place of a rule's path, where no rule decided."""

DROPS_KEY = x.joined(x.INTERFACE, x.MARK, x.MARK)
"""Interface of the endpoint, and the eight bytes that stand for the cause."""

INTERFACE_BYTES = x.INTERFACE.length
"""How many of such a key are the interface."""


@dataclass(frozen=True, slots=True)
class Loose:
    """A set whose elements come and go by themselves."""

    key: KeyType
    flags: int
    size: int


LOOSE_SETS = {names.WATCHED: Loose(x.INTERFACE, EXPIRING, 0), names.DROPS: Loose(DROPS_KEY, GROWING, 1 << 16)}
"""Sets of the frame whose elements no program asks for. Where that of drops is full, new causes are not counted."""


def drop_rules(direction: Direction, cause: bytes, comment: str) -> tuple[x.Rule, ...]:
    """Tell, count, drop. The interface is that of the endpoint whose policy decided."""
    interface = x.meta(x.META_OIFNAME if direction is Direction.INGRESS else x.META_IIFNAME)
    return (
        x.Rule((interface, x.lookup(names.WATCHED), x.limit(REPORT_RATE, REPORT_BURST),
                x.report(REPORT_GROUP, cause.hex(), REPORT_BYTES))),
        # A rule of its own, for it ends where the set is full.
        x.Rule((interface, x.load(cause[:4], 16), x.load(cause[4:], 20), x.tally(names.DROPS))),
        x.Rule((x.counter(), x.verdict(x.DROP)), comment))


def reason_rules(direction: Direction, reason: Reason) -> tuple[x.Rule, ...]:
    """The same for what no policy may let through."""
    return drop_rules(direction, names.reason_cause(direction, reason), reason.value)


def log_rule(policy: str) -> x.Rule:
    """Write to the kernel log that nothing allows a packet, under the name of a policy that asks for it."""
    return x.Rule((x.limit(LOG_RATE, LOG_BURST), x.log(log_prefix(policy, DENIED))), f"denials of {policy} are logged")


def log_prefix(policy: str, path: str) -> str:
    """What a line of a Log rule begins with in the kernel log: the policy, cut where it is too long, and the rule."""
    tail = f" {path}: ".encode() if path else b": "
    name = f"muslin {policy}".encode()[:max(0, x.LOG_PREFIX_BYTES - len(tail))]
    return (name + tail).decode(errors="ignore")
