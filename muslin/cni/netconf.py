"""The network configuration that the runtime writes to the plugin's stdin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from muslin.cni import names, versions
from muslin.cni.context import Bandwidth
from muslin.errors import Corrupt, InvalidArgument

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_PREFIX = re.compile(rf"[a-z][a-z0-9]{{0,{names.LONGEST_PREFIX - 1}}}")
_API_PATH = re.compile(r"/+(api(/.*)?)?$")
_NODE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,252}")


@dataclass(frozen=True)
class Ipam:
    """The section `ipam`, for Calico's address manager and Muslin's."""

    type: str = ""
    assign_ipv4: bool = True
    assign_ipv6: bool = False
    ipv4_pools: tuple[str, ...] = ()
    """Names or CIDRs, in order; empty for all."""
    ipv6_pools: tuple[str, ...] = ()
    """Likewise."""


@dataclass(frozen=True)
class Kubernetes:
    """Where an API server is and who asks there: the sections `kubernetes` and `policy`, of which the latter counts.

    Files are those of the machine that the configuration is on.
    """

    kubeconfig: str = ""
    """kubernetes.kubeconfig: a file."""
    api_root: str = ""
    """policy.k8s_api_root, else kubernetes.k8s_api_root: a URL, what Calico allows behind it (/api/v1) cut off."""
    auth_token: str = field(default="", repr=False)
    """policy.k8s_auth_token."""
    client_certificate: str = ""
    """policy.k8s_client_certificate: a file, as the next two."""
    client_key: str = ""
    certificate_authority: str = ""


@dataclass(frozen=True)
class NetConf:
    """The fields that Muslin reads, checked, with defaults filled in.

    Unknown fields are ignored, as the specification asks: other plugins of the chain have their own.
    """

    cni_version: str
    name: str
    """Network name: part of every attachment's identity, and the profile outside Kubernetes policy mode."""
    type: str
    """Name the plugin is installed under."""
    mtu: int = 0
    """Bytes; 0 leaves the kernel's default."""
    nodename: str = ""
    """Node identity; empty means the node daemon's own."""
    policy_type: str = ""
    """`k8s` for Kubernetes policy mode, else empty."""
    kubernetes: Kubernetes = Kubernetes()
    ipam: Ipam = Ipam()
    runtime_ips: tuple[str, ...] = ()
    """What the runtime asks for by the capability `ips`: addresses, each with or without a prefix length."""
    runtime_mac: str = ""
    """By the capability `mac`: a MAC address, not looked at here."""
    runtime_bandwidth: Bandwidth | None = None
    """By the capability `bandwidth`."""
    log_level: str = ""
    prev_result: Mapping[str, Any] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels from args."org.apache.mesos"."""
    muslin: Mapping[str, Any] = field(default_factory=dict)
    """Our own section."""
    interface_prefix: str = ""
    """`muslin.interface_prefix`: how names of host interfaces begin; empty means by `type`."""


def parse(raw: bytes) -> NetConf:
    """Read a configuration.

    Raises:
        Corrupt: it is not a JSON object.
        InvalidArgument: a field is missing or of the wrong type; the message names it.
    """
    try:
        document = json.loads(raw)
    except ValueError as problem:
        raise Corrupt(f"network configuration is not JSON: {problem}") from None
    if not isinstance(document, dict):
        raise Corrupt(f"network configuration is not a JSON object but {_kind(document)}")
    version = _string(document, "cniVersion") or versions.DEFAULT
    if version not in versions.SUPPORTED:
        raise InvalidArgument(f"cniVersion {version!r} is not supported; use one of {', '.join(versions.SUPPORTED)}")
    kubernetes, runtime = _object(document, "kubernetes"), _object(document, "runtimeConfig")
    return NetConf(
        cni_version=version,
        name=_required(document, "name", _NAME),
        type=_required(document, "type", _NAME),
        mtu=_integer(document, "mtu", 0, 65535),
        nodename=_nodename(document, kubernetes),
        policy_type=_policy_type(document),
        kubernetes=_kubernetes(kubernetes, _object(document, "policy")),
        ipam=_ipam(_object(document, "ipam")),
        runtime_ips=_strings(runtime, "ips", "runtimeConfig."),
        runtime_mac=_string(runtime, "mac", "runtimeConfig."),
        runtime_bandwidth=_bandwidth(_object(runtime, "bandwidth", "runtimeConfig.")),
        log_level=_string(document, "log_level"),
        prev_result=_object(document, "prevResult") or None,
        labels=_mesos_labels(document),
        muslin=_object(document, "muslin"),
        interface_prefix=_interface_prefix(_object(document, "muslin")),
    )


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _object(document: Mapping[str, Any], key: str, where: str = "") -> Mapping[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"{where}{key} must be an object, not {_kind(value)}")
    return value


def _string(document: Mapping[str, Any], key: str, where: str = "") -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{where}{key} must be a string, not {_kind(value)}")
    return value


def _strings(document: Mapping[str, Any], key: str, where: str = "") -> tuple[str, ...]:
    value = document.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise InvalidArgument(f"{where}{key} must be a list of strings, not {_kind(value)}")
    for number, item in enumerate(value):
        if not isinstance(item, str):
            raise InvalidArgument(f"{where}{key}[{number}] must be a string, not {_kind(item)}")
    return tuple(value)


def _boolean(document: Mapping[str, Any], key: str, default: bool, where: str = "") -> bool:
    """True or false, or as Calico has it, one of these words in a string."""
    value = document.get(key)
    if value is None:
        return default
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    given = repr(value) if isinstance(value, str) else _kind(value)
    raise InvalidArgument(f"{where}{key} must be \"true\" or \"false\", not {given}")


def _required(document: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = _string(document, key)
    if not value:
        raise InvalidArgument(f"{key} is missing from the network configuration")
    if not pattern.fullmatch(value):
        raise InvalidArgument(f"{key} {value!r} must match {pattern.pattern}")
    return value


def _integer(document: Mapping[str, Any], key: str, low: int, high: int, where: str = "") -> int:
    value = document.get(key, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{where}{key} must be a whole number, not {_kind(value)}")
    if not low <= value <= high:
        raise InvalidArgument(f"{where}{key} must be {low} to {high}, not {value}")
    return value


def _bandwidth(section: Mapping[str, Any]) -> Bandwidth | None:
    """Bits, as the conventions of CNI have them."""
    if not section:
        return None
    return Bandwidth(*(_integer(section, key, 0, 10 ** 15, "runtimeConfig.bandwidth.")
                       for key in ("ingressRate", "ingressBurst", "egressRate", "egressBurst")))


def _ipam(section: Mapping[str, Any]) -> Ipam:
    return Ipam(_string(section, "type", "ipam."), _boolean(section, "assign_ipv4", True, "ipam."),
                _boolean(section, "assign_ipv6", False, "ipam."), _strings(section, "ipv4_pools", "ipam."),
                _strings(section, "ipv6_pools", "ipam."))


def _nodename(document: Mapping[str, Any], kubernetes: Mapping[str, Any]) -> str:
    """`nodename`, else the older `hostname`, else kubernetes.node_name."""
    for value, path in ((_string(document, "nodename"), "nodename"), (_string(document, "hostname"), "hostname"),
                        (_string(kubernetes, "node_name", "kubernetes."), "kubernetes.node_name")):
        if value:
            if not _NODE.fullmatch(value):
                raise InvalidArgument(f"{path} {value!r} must match {_NODE.pattern}")
            return value
    return ""


def _interface_prefix(own: Mapping[str, Any]) -> str:
    value = _string(own, "interface_prefix", "muslin.")
    if value and not _PREFIX.fullmatch(value):
        raise InvalidArgument(f"muslin.interface_prefix {value!r} must match {_PREFIX.pattern}: a name has 15 bytes, "
                              "11 of which make it unique")
    return value


def _policy_type(document: Mapping[str, Any]) -> str:
    value = _string(_object(document, "policy"), "type", "policy.")
    if value not in ("", "k8s"):
        raise InvalidArgument(f"policy.type {value!r} is not known; use \"k8s\", or leave it out")
    return value


def _kubernetes(section: Mapping[str, Any], policy: Mapping[str, Any]) -> Kubernetes:
    root = _string(policy, "k8s_api_root", "policy.") or _string(section, "k8s_api_root", "kubernetes.")
    return Kubernetes(_string(section, "kubeconfig", "kubernetes."), _API_PATH.sub("", root),
                      *(_string(policy, f"k8s_{key}", "policy.")
                        for key in ("auth_token", "client_certificate", "client_key", "certificate_authority")))


def _mesos_labels(document: Mapping[str, Any]) -> Mapping[str, str]:
    where = 'args."org.apache.mesos".network_info.labels.'
    mesos = _object(_object(document, "args"), "org.apache.mesos", "args.")
    listed = _object(_object(mesos, "network_info"), "labels").get("labels", [])
    if not isinstance(listed, list):
        raise InvalidArgument(f"{where}labels must be a list, not {_kind(listed)}")
    labels = {}
    for number, item in enumerate(listed):
        if not isinstance(item, dict):
            raise InvalidArgument(f"{where}labels[{number}] must be an object, not {_kind(item)}")
        labels[_string(item, "key", f"{where}labels[{number}].")] = _string(item, "value", f"{where}labels[{number}].")
    return labels
