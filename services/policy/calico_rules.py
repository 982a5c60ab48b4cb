"""Rules of Calico's policies and profiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from muslin.selectors import Membership, Selector, equal
from services.policy import labels as names
from services.policy.calico_selectors import both, namespaces, pods, service_accounts
from services.policy.fields import Field, FieldError, Untranslatable
from services.policy.ipblocks import Network, merged, network
from services.policy.model import PROTOCOLS, Action, Direction, PortRange, Rule
from services.policy.objects import Condition
from services.policy.port_ranges import LAST, merged_ranges, without

_ACTIONS = {"Allow": Action.ALLOW, "Deny": Action.DENY, "Log": Action.LOG, "Pass": Action.PASS}
_PROTOCOLS = {**PROTOCOLS, "ICMP": 1, "ICMPv6": 58, "UDPLite": 136}
_RULE = ("action", "protocol", "ipVersion", "source", "destination", "metadata", "notProtocol", "icmp", "notICMP",
         "http")
_UNSUPPORTED = {
    "notProtocol": "is not supported; write a rule for each protocol that is meant",
    "icmp": "is not supported; protocol ICMP stands for all of its types",
    "notICMP": "is not supported; protocol ICMP stands for all of its types",
    "http": "is not supported: packets are judged, not requests",
}
_PEER = ("nets", "notNets", "selector", "notSelector", "namespaceSelector", "serviceAccounts", "services", "ports",
         "notPorts")
_PORTS = ("ports", "notPorts")
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True)
class Rules:
    """Reads the rules of one direction of an object; `namespace` is its own, empty for what is in none."""

    namespace: str
    direction: Direction
    conditions: list[Condition]

    def rule(self, item: Field) -> tuple[Rule, ...]:
        """A rule, as one for each way to match it; none, with a condition, if nothing can.

        Raises:
            FieldError: it is not one, or can not be enforced.
        """
        fields = item.fields(_RULE)
        if bad := next((key for key in _UNSUPPORTED if key in fields), None):
            raise fields[bad].error(_UNSUPPORTED[bad])
        if "action" not in fields:
            raise FieldError(f"{item.path}.action", f"is missing; use {', '.join(_ACTIONS)}")
        if "metadata" in fields and "annotations" in (about := fields["metadata"].fields(("annotations",))):
            about["annotations"].fields()
        action = _ACTIONS[fields["action"].one_of(tuple(_ACTIONS))]
        protocol = _protocol(fields["protocol"]) if "protocol" in fields else 0
        sides = {key: fields[key].fields(_PEER) if key in fields else {} for key in ("source", "destination")}
        inward = self.direction is Direction.INGRESS
        peer, local = (sides[key] for key in (("source", "destination") if inward else ("destination", "source")))
        self.check_sides(local, sides["source"], inward=inward)
        ports, port_names = _ports(sides["destination"], protocol)
        if ports is None:
            self.conditions.append(Condition(item.path, "dropped, because notPorts leaves none of its ports"))
            return ()
        selector = self.peers(peer)
        return tuple(Rule(action, item.path, protocol, selector, nets, not_nets, ports, port_names)
                     for nets, not_nets in _nets(peer, fields.get("ipVersion")))

    def check_sides(self, local: dict[str, Field], source: dict[str, Field], *, inward: bool) -> None:
        """Raise FieldError if a rule asks for the policy's own side, but for the ports of the destination."""
        for key, field in local.items():
            if not (inward and key in _PORTS) and field.value not in ("", [], {}):
                raise field.error("is not supported: this side is the policy's own endpoints; choose them with "
                                  "spec.selector, in a policy of their own where it must be")
        for key in _PORTS:
            if key in source and source[key].items():
                raise source[key].error("is not supported: only destination ports are judged")
        if "services" in source:
            raise source["services"].error("is not supported; write selector or nets")

    def peers(self, fields: dict[str, Field]) -> Selector | None:
        """The endpoints on the other side; None for anything.

        In a namespaced policy they are those of its namespace, unless there is a namespaceSelector.
        """
        if "services" in fields:
            raise fields["services"].error("is not supported; write selector or nets")
        terms: list[Selector] = []
        if "serviceAccounts" in fields:
            terms += _accounts(fields["serviceAccounts"])
        if (field := fields.get("selector")) and field.text():
            terms.append(pods(field))
        negated = fields.get("notSelector")
        excluded = pods(negated) if negated and negated.text() else None
        if (field := fields.get("namespaceSelector")) and field.text():
            terms.insert(0, namespaces(field))
        elif self.namespace and (terms or excluded is not None):
            terms.insert(0, equal(names.NAMESPACE, self.namespace))
        if negated and excluded is not None and not terms:
            raise negated.error("needs selector or namespaceSelector beside it; selector: all() stands for all pods")
        return both(terms, excluded)


def _protocol(field: Field) -> int:
    if isinstance(field.value, str) and not field.value.isdecimal():
        return _PROTOCOLS[field.one_of(tuple(_PROTOCOLS))]
    return (Field(int(field.value), field.path) if isinstance(field.value, str) else field).integer(1, 255)


def _accounts(field: Field) -> list[Selector]:
    fields = field.fields(("names", "selector"))
    terms: list[Selector] = []
    if (selector := fields.get("selector")) and selector.text():
        terms.append(service_accounts(selector))
    if "names" in fields and (listed := [item.dns_subdomain() for item in fields["names"].items()]):
        terms.append(Membership(names.SERVICE_ACCOUNT, tuple(sorted(set(listed)))))
    return terms


def _ports(fields: dict[str, Field], protocol: int) -> tuple[tuple[PortRange, ...] | None, tuple[str, ...]]:
    """Ranges and names of destination ports, both empty for any; ranges None if no port is left."""
    listed = {key: fields[key].items() if key in fields else [] for key in _PORTS}
    for key in _PORTS:
        if listed[key] and protocol not in PROTOCOLS.values():
            raise fields[key].error(f"needs protocol to be one of {', '.join(PROTOCOLS)}")
    ranges, port_names = _listed(listed["ports"])
    excluded, bad = _listed(listed["notPorts"])
    if bad:
        raise fields["notPorts"].error(f"{bad[0]!r} is the name of a port, which is not supported here; write numbers")
    if not excluded:
        return merged_ranges(ranges), port_names
    if port_names:
        raise fields["notPorts"].error("is not supported beside a port that has a name")
    left = without(ranges or [PortRange(0, LAST)], excluded)
    return left or None, ()


def _listed(items: Iterable[Field]) -> tuple[list[PortRange], tuple[str, ...]]:
    ranges: list[PortRange] = []
    port_names: set[str] = set()
    for item in items:
        if not isinstance(item.value, str):
            ranges.append(PortRange(item.port(), item.port()))
            continue
        first, colon, last = item.value.partition(":")
        if not first.isdecimal() or (colon and not last.isdecimal()):
            if colon:
                raise item.error(f"{item.value!r} is not a range of ports: write first:last, as in 8000:8080")
            port_names.add(item.port_name())
            continue
        if len(item.value) > 11:
            raise item.error(f"{item.value[:20]!r} is not a port: use 1 to 65535")
        begin = Field(int(first), item.path).port()
        end = Field(int(last), item.path).port() if colon else begin
        if end < begin:
            raise item.error(f"{item.value!r} ends before it begins")
        ranges.append(PortRange(begin, end))
    return ranges, tuple(sorted(port_names))


def _nets(fields: dict[str, Field], version: Field | None) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What the peer's address must and must not be in. A rule with any CIDR, or a version, is for that family only."""
    nets, not_nets = (_networks(fields[key].items()) if key in fields else [] for key in ("nets", "notNets"))
    families: set[int] = {item.version for item in (*nets, *not_nets)}
    if version is not None:
        if version.value not in (4, 6):
            raise version.error("must be 4 or 6")
        families.add(version.integer(4, 6))
    if not families:
        return [((), ())]
    if len(families) > 1:
        where = fields.get("nets") or fields.get("notNets") or version
        assert where is not None
        raise where.error("all CIDRs of a rule, and its ipVersion, must be of one address family; make two rules of it")
    (family,) = families
    whole = merged(nets)[0] if nets else (_EVERYTHING[family],)
    return [(whole, merged(not_nets)[0] if not_nets else ())]


def _networks(items: Iterable[Field]) -> list[Network]:
    try:
        return [network(item) for item in items]
    except Untranslatable as problem:
        raise FieldError(problem.path, problem.message) from None
