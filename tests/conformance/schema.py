"""The shapes of what plugins print, by version. Pure: each function lists what is wrong."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.conformance.table import at_least

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5,}")
_SEMANTIC = re.compile(r"\d+\.\d+\.\d+")


def faults_of_error(document: Any) -> list[str]:
    """Section 5, "Error", but for cniVersion, which a row of its own looks at."""
    if not isinstance(document, dict):
        return [f"an error is an object, not {document!r}"]
    faults = []
    code = document.get("code")
    if not isinstance(code, int) or isinstance(code, bool) or code <= 0:
        faults.append(f"code is a positive number, not {code!r}")
    if not isinstance(document.get("msg"), str) or not document["msg"]:
        faults.append(f"msg is a text, not {document.get('msg')!r}")
    if not isinstance(document.get("details", ""), str):
        faults.append(f"details is a text, not {document['details']!r}")
    return faults


def faults_of_versions(document: Any) -> list[str]:
    """Section 5, "Version"."""
    if not isinstance(document, dict):
        return [f"the answer is an object, not {document!r}"]
    faults = []
    if not _is_version(document.get("cniVersion")):
        faults.append(f"cniVersion is a version, not {document.get('cniVersion')!r}")
    listed = document.get("supportedVersions")
    if not isinstance(listed, list) or not listed:
        return [*faults, f"supportedVersions is a list, not {listed!r}"]
    faults += [f"supportedVersions has {entry!r}, no version" for entry in listed if not _is_version(entry)]
    if len(set(map(str, listed))) != len(listed):
        faults.append(f"supportedVersions has a version twice: {listed}")
    return faults


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and _SEMANTIC.fullmatch(value) is not None


def faults_of_result(document: Any, version: str) -> list[str]:
    """Section 5, "ADD Success", and the sections "Result" of the versions before 1.0.0."""
    if not isinstance(document, dict):
        return [f"a result is an object, not {document!r}"]
    faults = [] if document.get("cniVersion") == version else [
        f"cniVersion is {document.get('cniVersion')!r}, not that of the configuration, {version!r}"]
    faults += _modern(document, version) if at_least(version, "0.3.0") else _oldest(document)
    if not isinstance(document.get("dns") or {}, dict):
        faults.append(f"dns is an object, not {document['dns']!r}")
    return faults


def _oldest(document: Mapping[str, Any]) -> Iterator[str]:
    """0.1.0 and 0.2.0."""
    for key in sorted({"ips", "interfaces", "routes"} & set(document)):
        yield f"{key} came with 0.3.0"
    if not document.get("ip4") and not document.get("ip6"):
        yield "neither ip4 nor ip6 is there"
    for key, family in (("ip4", 4), ("ip6", 6)):
        entry = document.get(key)
        if entry is None:
            continue
        if not isinstance(entry, dict):
            yield f"{key} is an object, not {entry!r}"
            continue
        yield from _cidr(f"{key}.ip", entry.get("ip"), family)
        yield from _gateway(f"{key}.gateway", entry.get("gateway"), family)
        yield from _routes(f"{key}.routes", entry.get("routes"))


def _modern(document: Mapping[str, Any], version: str) -> Iterator[str]:
    """0.3.0 and later."""
    for key in sorted({"ip4", "ip6"} & set(document)):
        yield f"{key} went with 0.3.0"
    interfaces, ips = document.get("interfaces"), document.get("ips")
    if not isinstance(interfaces, list) or not interfaces:
        yield f"interfaces is a list, not {interfaces!r}"
        interfaces = []
    for number, interface in enumerate(interfaces):
        yield from _interface(f"interfaces[{number}]", interface)
    if not isinstance(ips, list):
        yield f"ips is a list, not {ips!r}"
        ips = []
    for number, entry in enumerate(ips):
        yield from _address(f"ips[{number}]", entry, len(interfaces), version)
    yield from _routes("routes", document.get("routes"))


def _interface(where: str, interface: Any) -> Iterator[str]:
    if not isinstance(interface, dict):
        yield f"{where} is an object, not {interface!r}"
        return
    if not isinstance(interface.get("name"), str) or not interface["name"]:
        yield f"{where}.name is a text, not {interface.get('name')!r}"
    if interface.get("mac") and not _MAC.fullmatch(str(interface["mac"])):
        yield f"{where}.mac is a hardware address, not {interface['mac']!r}"
    if not isinstance(interface.get("sandbox", ""), str):
        yield f"{where}.sandbox is a text, not {interface['sandbox']!r}"
    if not isinstance(interface.get("mtu", 0), int):
        yield f"{where}.mtu is a number, not {interface['mtu']!r}"


def _address(where: str, entry: Any, interfaces: int, version: str) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{where} is an object, not {entry!r}"
        return
    yield from _cidr(f"{where}.address", entry.get("address"))
    family = 6 if ":" in str(entry.get("address")) else 4
    yield from _gateway(f"{where}.gateway", entry.get("gateway"), family)
    if at_least(version, "1.0.0"):
        if "version" in entry:
            yield f"{where}.version went with 1.0.0"
    elif entry.get("version") != str(family):
        yield f"{where}.version is {str(family)!r}, not {entry.get('version')!r}"
    index = entry.get("interface")
    if index is not None and (not isinstance(index, int) or not 0 <= index < interfaces):
        yield f"{where}.interface is {index!r}, no index into {interfaces} interfaces"


def _cidr(where: str, value: Any, family: int = 0) -> Iterator[str]:
    try:
        address = ipaddress.ip_interface(value if isinstance(value, str) and "/" in value else "no prefix length")
    except ValueError:
        yield f"{where} is an address with its prefix length, not {value!r}"
        return
    if family and address.version != family:
        yield f"{where} is of IPv{family}, not {value!r}"


def _gateway(where: str, value: Any, family: int) -> Iterator[str]:
    if value is None:
        return
    try:
        right = ipaddress.ip_address(value).version == family
    except ValueError:
        right = False
    if not right:
        yield f"{where} is an address of IPv{family}, not {value!r}"


def _routes(where: str, value: Any) -> Iterator[str]:
    if value is None:
        return
    if not isinstance(value, list):
        yield f"{where} is a list, not {value!r}"
        return
    for number, route in enumerate(value):
        if not isinstance(route, dict):
            yield f"{where}[{number}] is an object, not {route!r}"
            continue
        yield from _cidr(f"{where}[{number}].dst", route.get("dst"))
        yield from _gateway(f"{where}[{number}].gw", route.get("gw"), 6 if ":" in str(route.get("dst")) else 4)
