"""What a call asks for, from all the places where it can be written, resolved to names of pools. No I/O.

Which pools, for each family: the pod's annotation; else its namespace's; else the configuration's `ipam.ipv4_pools` and
`ipam.ipv6_pools`; else all that are enabled. Of these the ones serve whose selectors match node and namespace.

A specific address: the pod's annotation, the capability `ips` of the runtime, or `IP` in CNI_ARGS, in this order of
precedence as far as errors go: two of them may name the same address, or addresses of different families, and
otherwise contradict each other. Where a family has one, its pools do not matter, as in Calico: any enabled pool that
holds the address serves.

Families: `ipam.assign_ipv4` and `ipam.assign_ipv6`. All of those asked for are given, or none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from muslin.api.ipam.v1 import ipam_pb2
from muslin.cni.netconf import Ipam, NetConf
from muslin.errors import Exhausted, InvalidArgument, MuslinError
from muslin.selectors import parse
from services.ipam import pools, ranges
from services.ipam.annotations import ADDRESSES, LONGEST_STICKY, POOLS, Said, check_supported, short, sticky, strings
from services.ipam.handles import Handle, Request
from services.ipam.inventory import Namespace, Node, Pod
from services.ipam.pools import Pool

HOSTNAME = "kubernetes.io/hostname"
METADATA_NAME = "kubernetes.io/metadata.name"
"""Labels that Kubernetes puts on every node and every namespace: so they can be selected by name, known or not."""

_NAMED = 12
"""Pools that an error names: it travels in a header, which has a limit."""

_selector = lru_cache(maxsize=1024)(parse)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attachment is, as far as that is known."""

    node: str
    namespace: str
    """Empty outside Kubernetes."""
    known_node: Node | None
    known_namespace: Namespace | None

    def reason(self, pool: Pool) -> str:
        """Why a pool does not serve here; empty if it does."""
        if pool.node_selector and not _selector(pool.node_selector).matches(self._node_labels):
            unknown = "" if self.known_node else ", whose labels are not known"
            return f"does not serve node {self.node}{unknown} (node selector {short(pool.node_selector)})"
        if pool.namespace_selector and not _selector(pool.namespace_selector).matches(self._namespace_labels):
            unknown = "" if self.known_namespace else ", whose labels are not known"
            where = f"namespace {self.namespace}{unknown}" if self.namespace else "what is in no namespace"
            return f"does not serve {where} (namespace selector {short(pool.namespace_selector)})"
        return ""

    @property
    def _node_labels(self) -> Mapping[str, str]:
        return {HOSTNAME: self.node, **(self.known_node.labels if self.known_node else {})}

    @property
    def _namespace_labels(self) -> Mapping[str, str]:
        if not self.namespace:
            return {}
        return {**(self.known_namespace.labels if self.known_namespace else {}), METADATA_NAME: self.namespace}


def of_call(handle: Handle, conf: NetConf, args: Mapping[str, str], pod: Pod | None, namespace: Namespace | None,
            node: Node | None, existing: Sequence[Pool]) -> Request:
    """What an ADD asks for. Of pod, namespace and node what is known; `existing` are all pools.

    Raises:
        InvalidArgument: naming the field or annotation and the fix.
        Unsupported: an annotation asks for what is not served.
        Exhausted: no pool of a family serves here, though nobody asked for a certain one.
    """
    whose = f"pod {handle.namespace}/{handle.pod}"
    notes = pod.annotations if pod else {}
    check_supported(notes, whose)
    families = _assigned(conf.ipam)
    specific = _agreed([*_annotated(notes, whose), *_asked_by_runtime(conf), *_argument(args)])
    for family, (address, where) in specific.items():
        if family not in families:
            raise InvalidArgument(f"{where} asks for {address}, and ipam.assign_ipv{family} is false: set it to "
                                  "\"true\", or ask for no such address")
    ours = namespace.annotations if namespace else {}
    preferred = {family: strings(notes, POOLS[family], whose)
                 or strings(ours, POOLS[family], f"namespace {handle.namespace}")
                 or _configured(conf.ipam, family) for family in families if family not in specific}
    return Request(handle, families, tuple(address for address, _ in specific.values()),
                   _resolved(preferred, Place(handle.node, handle.namespace, node, namespace), existing),
                   sticky(notes, whose))


def of_message(asked: ipam_pb2.AssignRequest, handle: Handle, namespace: Namespace | None, node: Node | None,
               existing: Sequence[Pool]) -> Request:
    """What a request of the API asks for; likewise. Annotations do not count: who asks here says what is wanted.

    Raises:
        InvalidArgument: naming the field and the fix.
        Exhausted: no pool of a family serves here, though nobody asked for a certain one.
    """
    if not (asked.families or asked.addresses or asked.ipv4_pools or asked.ipv6_pools or asked.sticky_seconds):
        # What nearly all ask for. Where no pool has a selector all serve, whoever asks.
        plain = _PLAIN if not any(pool.node_selector or pool.namespace_selector for pool in existing) else _resolved(
            _ANY, Place(handle.node, handle.namespace, node, namespace), existing)
        return Request(handle, pools=plain)
    specific = _agreed(_parsed_addresses(Said(tuple(asked.addresses), "addresses")))
    families = tuple(sorted(set(asked.families) or set(specific) or {4}))
    if not set(families) <= {4, 6}:
        raise InvalidArgument(f"families {list(asked.families)} must be of 4 and 6")
    for family, (address, _) in specific.items():
        if family not in families:
            raise InvalidArgument(f"addresses: {address} is IPv{family}, which families {list(families)} lacks; add "
                                  f"{family}, or leave families out")
    if asked.sticky_seconds > LONGEST_STICKY:
        raise InvalidArgument(f"sticky_seconds {asked.sticky_seconds} must be 0 to {LONGEST_STICKY}")
    said = {4: Said(tuple(asked.ipv4_pools), "ipv4_pools"), 6: Said(tuple(asked.ipv6_pools), "ipv6_pools")}
    preferred = {family: said[family] for family in families if family not in specific}
    return Request(handle, families, tuple(address for address, _ in specific.values()),
                   _resolved(preferred, Place(handle.node, handle.namespace, node, namespace), existing),
                   asked.sticky_seconds)


_ANY = {4: Said((), "ipv4_pools")}
_PLAIN: Mapping[int, tuple[str, ...]] = MappingProxyType({})


def repeatable(handle: Handle, known: Callable[[], Handle | None], ask: Callable[[], Request]) -> Request:
    """What `ask` makes of a call. If that raises, and the attachment holds addresses already, a request for these.

    Whoever asks again is answered as before, whatever has become of pools, labels and annotations meanwhile. `known`
    gives the attachment's handle, as far as that is known; addresses that are kept for a pod's return are nobody's now.
    """
    try:
        return ask()
    except MuslinError:
        held = known()
        if held is None or held.kept_until_ms:
            raise
        addresses = tuple(a.address for a in held.addresses)
        return Request(handle, tuple(ranges.number(address)[1] for address in addresses), addresses,
                       sticky_seconds=held.sticky)


def _assigned(conf: Ipam) -> tuple[int, ...]:
    families = tuple(family for family, asked in ((4, conf.assign_ipv4), (6, conf.assign_ipv6)) if asked)
    if not families:
        raise InvalidArgument("ipam.assign_ipv4 and ipam.assign_ipv6 are both false, so there is no address to give: "
                              "set one to \"true\"")
    return families


# Specific addresses

_Sourced = tuple[str, str]
"""An address, and where it was written."""


def _annotated(notes: Mapping[str, str], whose: str) -> Iterator[_Sourced]:
    if said := strings(notes, ADDRESSES, whose):
        yield from _parsed_addresses(said)


def _asked_by_runtime(conf: NetConf) -> Iterator[_Sourced]:
    yield from _parsed_addresses(Said(conf.runtime_ips, "runtimeConfig.ips"), lengths=True)


def _argument(args: Mapping[str, str]) -> Iterator[_Sourced]:
    texts = [text.strip() for text in args.get("IP", "").split(",")]
    yield from _parsed_addresses(Said(tuple(text for text in texts if text), "IP in CNI_ARGS"), lengths=True)


def _parsed_addresses(said: Said, *, lengths: bool = False) -> Iterator[_Sourced]:
    """The addresses; `lengths`: a prefix length behind one is allowed, and ignored, since pods get a /32 or /128."""
    for text in said.texts:
        address = None if "%" in text or ("/" in text and not lengths) else _address(text)
        if address is None:
            raise InvalidArgument(f"{said.where}: {short(text)} is not an address; write it as \"192.168.0.7\" or "
                                  "\"fd00::7\"")
        yield address, said.where


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_interface(text).ip)
    except ValueError:
        return None


def _agreed(sourced: Iterable[_Sourced]) -> dict[int, _Sourced]:
    """By family the address that all agree on."""
    found: dict[int, _Sourced] = {}
    for address, where in sourced:
        family = ipaddress.ip_address(address).version
        first, said = found.setdefault(family, (address, where))
        if first == address:
            continue
        if said == where:
            raise InvalidArgument(f"{where} asks for {first} and {address}: a pod has one IPv{family} address, keep "
                                  "one of them")
        raise InvalidArgument(f"{said} asks for {first}, and {where} for {address}: a pod has one IPv{family} "
                              "address, remove one of them")
    return dict(sorted(found.items()))


# Pools

def _configured(conf: Ipam, family: int) -> Said:
    return Said(conf.ipv4_pools if family == 4 else conf.ipv6_pools, f"ipam.ipv{family}_pools")


def _resolved(preferred: Mapping[int, Said], place: Place, existing: Sequence[Pool]) -> dict[int, tuple[str, ...]]:
    """By family the names of the pools that may serve; a family is missing if all do that are enabled."""
    found = {}
    for family, said in preferred.items():
        names = _asked(said, family, place, existing) if said.texts else _serving(family, place, existing)
        if names is not None:
            found[family] = names
    return found


def _serving(family: int, place: Place, existing: Sequence[Pool]) -> tuple[str, ...] | None:
    """The pools that serve here, None if no enabled one does not."""
    enabled = [pool for pool in existing if pools.family(pool) == family and pools.serves(pool)]
    reasons = {pool.name: place.reason(pool) for pool in enabled}
    if not any(reasons.values()):
        return None
    if all(reasons.values()):
        raise Exhausted(f"no IPv{family} address: " + _some(
            f"pool {pool.name} ({pool.cidr}) {reasons[pool.name]}" for pool in enabled))
    return tuple(name for name, reason in reasons.items() if not reason)


def _asked(said: Said, family: int, place: Place, existing: Sequence[Pool]) -> tuple[str, ...]:
    """The pools that were asked for and serve here."""
    asked = list(dict.fromkeys(_pool(text, said.where, family, existing) for text in said.texts))
    reasons = [(pool, place.reason(pool)) for pool in asked]
    if all(reason for _, reason in reasons):
        raise InvalidArgument(f"{said.where}: {_some(f'pool {pool.name} {reason}' for pool, reason in reasons)}; "
                              "name another pool, or change the pool's selector")
    return tuple(pool.name for pool, reason in reasons if not reason)


def _pool(text: str, where: str, family: int, existing: Sequence[Pool]) -> Pool:
    """The pool of a name or a range, which must be enabled and of the family."""
    wanted, there = _range(text, where), sorted(existing, key=lambda pool: pool.name)
    pool = next((pool for pool in there if (pool.cidr == wanted if wanted else pool.name == text)), None)
    if pool is None:
        names = _some(f"{pool.name} ({pool.cidr})" for pool in there) or "not made yet"
        raise InvalidArgument(f"{where}: there is no pool {short(text)}; pools are {names}")
    if pools.family(pool) != family:
        raise InvalidArgument(f"{where}: pool {pool.name} ({pool.cidr}) has IPv{pools.family(pool)} addresses, and "
                              f"IPv{family} is asked for; name it for the other family")
    if not pools.serves(pool):
        state = "being deleted" if pool.deleting else "disabled"
        raise InvalidArgument(f"{where}: pool {pool.name} ({pool.cidr}) is {state}; enable it or name another")
    return pool


def _range(text: str, where: str) -> str:
    """A range as pools have it; empty if the text can only be a name, which has none of these characters."""
    if not any(character in text for character in "./:"):
        return ""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise InvalidArgument(f"{where}: {short(text)} is not a range with all host bits zero; write a pool's name, or "
                              "its range as in 192.168.0.0/16") from None


def _some(texts: Iterable[str]) -> str:
    """The first of some texts, in a line."""
    listed = list(texts)
    more = [f"and {len(listed) - _NAMED} more"] if len(listed) > _NAMED else []
    return "; ".join([*listed[:_NAMED], *more])
