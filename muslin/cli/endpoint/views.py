"""Endpoints for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cli.ipam.table import Column, Look, table

__all__ = ["described", "listed", "name_of"]

Record = endpoint_pb2.WorkloadEndpoint

SHORT = 12
"""Characters of a container's id that tell it from others."""

_COLUMNS = (Column("ENDPOINT", shrink=True, least=16), Column("NODE", shrink=True), Column("ADDRESSES"),
            Column("INTERFACE"), Column("NETWORK", spare=True), Column("PROFILES", shrink=True, spare=True),
            Column("LABELS", shrink=True, spare=True), Column("CONTAINER", spare=True))


def name_of(record: Record) -> str:
    """What people call it: the pod, or outside Kubernetes the container; with the interface unless that is eth0."""
    attachment = record.attachment
    name = f"{record.namespace}/{record.pod}" if record.pod else attachment.container_id[:SHORT]
    return name if attachment.ifname == "eth0" else f"{name} {attachment.ifname}"


def listed(records: Iterable[Record], look: Look) -> str:
    """A line for each."""
    return table(_COLUMNS, [(
        name_of(record), record.node, " ".join(record.addresses) or "-", record.host_interface,
        record.attachment.network, " ".join(record.profiles) or "-", _labels(record.labels) or "-",
        record.attachment.container_id[:SHORT]) for record in records], look)


def described(record: Record) -> str:
    """All of it, a field a line."""
    attachment = record.attachment
    ports = [f"{port.name}={port.port}/{port.protocol}" for port in record.ports]
    fields: Sequence[tuple[str, str]] = (
        ("endpoint", name_of(record)),
        ("attachment", f"{attachment.network}/{attachment.container_id}/{attachment.ifname}"),
        ("node", record.node), ("addresses", " ".join(record.addresses)), ("mac", record.mac),
        ("host interface", record.host_interface), ("namespace path", record.netns),
        ("profiles", " ".join(record.profiles)), ("service account", record.service_account),
        ("ports", " ".join(ports)), ("labels", _labels(record.labels)), ("pod uid", record.pod_uid),
        ("revision", str(record.revision)))
    width = max(len(name) for name, _ in fields)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in fields if value)


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" if value else key for key, value in sorted(labels.items()))
