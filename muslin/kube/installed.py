"""The kinds of objects that an installation of Muslin's in a cluster consists of, as far as it reads them itself."""

from __future__ import annotations

import base64
import binascii
from dataclasses import replace
from typing import TypeVar

import msgspec

from muslin.errors import Corrupt
from muslin.kube.kinds import Kind, Plain, Resource

__all__ = ["CONFIG_MAPS", "DAEMON_SETS", "PLACED", "REQUESTS", "SECRETS", "SERVICES", "STATEFUL_SETS", "ConfigMap",
           "Placed", "Request", "Secret", "Service", "one"]

T = TypeVar("T", bound=Resource)


class Secret(Resource, frozen=True):
    """A secret: keys of processes, or the authority's."""

    data: dict[str, str] | None = None

    def content(self, key: str) -> bytes | None:
        """What is in it under a key; None if nothing is. Raises Corrupt."""
        text = (self.data or {}).get(key)
        try:
            return None if text is None else base64.b64decode(text, validate=True)
        except binascii.Error:
            raise Corrupt(f"secret {self.metadata.name}: {key} is not base64") from None


class ConfigMap(Resource, frozen=True):
    """What everybody may read."""

    data: dict[str, str] | None = None


class _ServiceSpec(msgspec.Struct, frozen=True):
    address: str | None = msgspec.field(name="clusterIP", default=None)
    addresses: list[str] | None = msgspec.field(name="clusterIPs", default=None)


class Service(Resource, frozen=True):
    """A service, and where kube-proxy has it."""

    spec: _ServiceSpec | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its cluster addresses, none if it has no such."""
        if self.spec is None:
            return ()
        found = self.spec.addresses or ([self.spec.address] if self.spec.address else [])
        return tuple(each for each in found if each and each != "None")


class _PodSpec(msgspec.Struct, rename="camel", frozen=True):
    node_name: str | None = None
    service_account_name: str | None = None


class Placed(Resource, frozen=True):
    """A pod, as far as it says where it is, and as whom it runs."""

    spec: _PodSpec | None = None

    @property
    def node(self) -> str:
        """Its node; empty if it has none yet."""
        return (self.spec.node_name if self.spec else None) or ""

    @property
    def service_account(self) -> str:
        """Name of its service account."""
        return (self.spec.service_account_name if self.spec else None) or "default"


class _RequestSpec(msgspec.Struct, rename="camel", frozen=True):
    request: str
    signer_name: str = ""
    username: str = ""
    usages: list[str] | None = None
    extra: dict[str, list[str]] | None = None


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str = "True"
    message: str | None = None


class _RequestStatus(msgspec.Struct, frozen=True):
    conditions: list[_Condition] | None = None
    certificate: str | None = None


class Request(Resource, frozen=True):
    """A CertificateSigningRequest. Who made it is what the API server says, not the request."""

    spec: _RequestSpec
    status: _RequestStatus | None = None

    def has(self, condition: str) -> bool:
        """Whether a condition is said of it: Approved, Denied, Failed."""
        found = self.status.conditions if self.status else None
        return any(each.type == condition and each.status == "True" for each in found or ())

    @property
    def said(self) -> str:
        """What its conditions say, for people."""
        found = self.status.conditions if self.status else None
        return "; ".join(each.message for each in found or () if each.message)

    @property
    def certificate(self) -> bytes:
        """What was signed, PEM; empty if nothing is yet. Raises Corrupt."""
        text = (self.status.certificate if self.status else None) or ""
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            raise Corrupt(f"certificate signing request {self.metadata.name}: its certificate is not base64") from None


SECRETS = Kind("Secret", "v1", "secrets", Secret)
CONFIG_MAPS = Kind("ConfigMap", "v1", "configmaps", ConfigMap)
SERVICES = Kind("Service", "v1", "services", Service)
PLACED = Kind("Pod", "v1", "pods", Placed)
DAEMON_SETS = Kind("DaemonSet", "apps/v1", "daemonsets", Plain)
STATEFUL_SETS = Kind("StatefulSet", "apps/v1", "statefulsets", Plain)
REQUESTS = Kind("CertificateSigningRequest", "certificates.k8s.io/v1", "certificatesigningrequests", Request)


def one(kind: Kind[T], name: str, namespace: str = "") -> Kind[T]:
    """One object of a kind, to be listed and watched by who may read no other."""
    return replace(kind, namespace=namespace, fields=f"metadata.name={name}")
