"""Which selectors, and which rules, say nothing that others have not said. Pure.

Both judgements are sound and not complete: what is found is so for any labels and any packet; what is too intricate is
passed over.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from muslin.selectors import All, And, Comparison, Has, Membership, Or, Selector, canonical
from services.policy.model import PortRange, Rule

__all__ = ["covers", "implies"]


def implies(narrow: Selector, wide: Selector) -> bool:
    """Whether whatever `narrow` selects, `wide` selects, too."""
    return _implies(canonical(narrow), canonical(wide))


def _implies(narrow: Selector, wide: Selector) -> bool:
    if isinstance(wide, All) or narrow == wide:
        return True
    if isinstance(narrow, Or):
        return all(_implies(part, wide) for part in narrow.operands)
    if isinstance(wide, And):
        return all(_implies(narrow, part) for part in wide.operands)
    if isinstance(wide, Or) and any(_implies(narrow, part) for part in wide.operands):
        return True
    if isinstance(narrow, And):
        return any(_implies(part, wide) for part in narrow.operands)
    return _term(narrow, wide)


def _term(narrow: Selector, wide: Selector) -> bool:
    """The same for two single terms: a label that has one of some values, or has not."""
    values = _values(narrow)
    match wide:
        case Has(key):
            return values is not None and values[0] == key
        case Comparison(key, "!=", value):
            return values is not None and values[0] == key and value not in values[1]
        case Comparison(key, "==", value):
            return values is not None and values == (key, frozenset({value}))
        case Membership(key, others, negated):
            return values is not None and values[0] == key and (
                values[1].isdisjoint(others) if negated else values[1] <= frozenset(others))
        case _:
            return False


def _values(selector: Selector) -> tuple[str, frozenset[str]] | None:
    """A label and the values, one of which it must have."""
    match selector:
        case Comparison(key, "==", value):
            return key, frozenset({value})
        case Membership(key, values, negated=False) if values:
            return key, frozenset(values)
        case _:
            return None


def covers(earlier: Rule, later: Rule) -> bool:
    """Whether whatever matches `later`, for one endpoint and direction, matches `earlier`, too."""
    return (earlier.protocol in (0, later.protocol)
            and (earlier.peer is None or (later.peer is not None and implies(later.peer, earlier.peer)))
            and _holds_nets(earlier, later) and _holds_ports(earlier, later))


def _holds_nets(earlier: Rule, later: Rule) -> bool:
    wide, narrow = _networks(earlier.nets), _networks(later.nets)
    if wide and not (narrow and all(any(_within(net, other) for other in wide) for net in narrow)):
        return False
    holes = _networks(later.not_nets)
    return all(any(_within(hole, other) for other in holes) or (narrow and not any(_meet(hole, net) for net in narrow))
               for hole in _networks(earlier.not_nets))


def _holds_ports(earlier: Rule, later: Rule) -> bool:
    if not earlier.ports and not earlier.port_names:
        return True
    if not later.ports and not later.port_names:
        return False
    return (all(_inside(each, earlier.ports) for each in later.ports)
            and set(later.port_names) <= set(earlier.port_names))


def _inside(ports: PortRange, wide: Iterable[PortRange]) -> bool:
    return any(first <= ports.first and ports.last <= last for first, last in wide)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(texts: Iterable[str]) -> list[Network]:
    return [ipaddress.ip_network(text) for text in texts]


def _within(narrow: Network, wide: Network) -> bool:
    return narrow.version == wide.version and narrow.subnet_of(wide)  # type: ignore[arg-type]
    # (the versions were just found to be equal, which the type checker can not know)


def _meet(one: Network, other: Network) -> bool:
    return one.overlaps(other)
