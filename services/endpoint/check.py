"""The CHECK verb: whether a record still says what ADD answered. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from muslin.cni.result import Interface, Result
from services.endpoint.records import WorkloadEndpoint


def differences(record: WorkloadEndpoint, before: Result) -> Iterator[str]:
    """What a record and the result of ADD do not agree on, for people.

    Plugins that came later may have added interfaces and addresses of their own: of those with an interface only what
    is on ours counts.
    """
    ours = [number for number, interface in enumerate(before.interfaces)
            if interface.name == record.ifname and interface.sandbox]
    yield from _addresses(record, before, ours)
    if not before.interfaces:
        return  # versions before 0.3.0 tell of none
    if not ours:
        yield f"interface: prevResult has no {record.ifname} in a sandbox"
    for number in ours:
        yield from _interface(record, before.interfaces[number])
    if not any(interface.name == record.host_interface and not interface.sandbox for interface in before.interfaces):
        yield f"host interface: the record says {record.host_interface}, prevResult has none of that name on the host"


def _addresses(record: WorkloadEndpoint, before: Result, ours: list[int]) -> Iterator[str]:
    answered = {ip.address.partition("/")[0] for ip in before.ips if ip.interface is None or ip.interface in ours}
    recorded = set(record.addresses)
    if missing := sorted(recorded - answered):
        yield f"addresses: the record has {', '.join(missing)}, prevResult has not"
    if missing := sorted(answered - recorded):
        yield f"addresses: prevResult has {', '.join(missing)}, the record has not"


def _interface(record: WorkloadEndpoint, interface: Interface) -> Iterator[str]:
    if interface.mac and interface.mac.lower() != record.mac:
        yield f"mac: the record says {record.mac}, prevResult {interface.mac}"
