"""Whether there is exactly what the running pods need: addresses, records, links, routes, rules, namespaces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.kubernetes.machine import until
from tests.kubernetes.muslin import Muslin
from tests.kubernetes.pods import address_of

__all__ = ["differences", "none"]

_ATTACHMENT = ("network", "container_id", "ifname")
_OURS = re.compile(r"(cali|mus)[0-9a-f]{11}")


def none(muslin: Muslin, patience: float = 120.0) -> str:
    """Wait until there is neither more nor less than there should be; returns a line about what there is."""
    found: list[dict[str, Any]] = []

    def clean() -> bool:
        found.append(differences(muslin))
        return not found[-1]["wrong"]
    until(clean, lambda: "nothing is left over, and nothing lacks: " + json.dumps(found[-1]["wrong"], indent=1),
          patience, interval=1.0)
    return f"{found[-1]['pods']} pods, and of everything as much"


def differences(muslin: Muslin) -> dict[str, Any]:
    """How many pods there are, and what does not agree with them, by kind: [lacks, left over]."""
    node = muslin.node
    pods = [pod for pod in node.get("pods", "--all-namespaces").get("items", ())
            if not pod["spec"].get("hostNetwork") and pod["status"].get("phase") not in ("Succeeded", "Failed")]
    addresses = {address_of(pod) or f"{pod['metadata']['name']} has none yet" for pod in pods}
    endpoints = muslin.asked("endpoint", "list")["endpoints"]
    interfaces = {each["host_interface"] for each in endpoints}
    handles = muslin.asked("ipam", "show", "--handles")["handles"]
    status = muslin.asked("status")
    rules = json.loads(node.run("nft", "-j", "list", "map", "inet", "muslin", "from_pod"))["nftables"]
    elements = [each for item in rules for each in item.get("map", {}).get("elem", ())]
    routes = [line.split() for line in node.run("ip", "-4", "route").splitlines() if _OURS.search(line)]
    cached = [name for name in node.run("ls", "/var/lib/cni/results").split() if not name.startswith("cni-loopback")]
    seen = {
        "addresses of endpoints": (addresses, {address for each in endpoints for address in each["addresses"]}),
        "addresses held": (addresses, {address for each in handles for address in each["addresses"]}),
        "routes": (addresses, {words[0] for words in routes}),
        "links": (interfaces, {found.group() for found in _OURS.finditer(node.run("ip", "-o", "link"))}),
        "verdicts": (interfaces, {_name(element) for element in elements}),
        "network namespaces": ({Path(each["netns"]).name for each in endpoints},
                               set(node.run("ls", "/run/netns").split())),
        "results that the runtime keeps": ({"-".join(each["attachment"][part] for part in _ATTACHMENT)
                                            for each in endpoints}, set(cached)),
        "deletions that wait": (set(), {str(status["deletions"])} if status["deletions"]["waiting"]
                                or status["deletions"]["failed"] else set()),
        "problems": (set(), set(status["problems"])),
    }
    wrong = {kind: [sorted(expected - actual), sorted(actual - expected)]
             for kind, (expected, actual) in seen.items() if expected != actual}
    checked = muslin("ipam", "check", check=False)
    if "no problems" not in checked:
        wrong["ipam check"] = [[], checked.splitlines()]
    return {"pods": len(pods), "wrong": wrong}


def _name(element: Any) -> str:
    """The interface of an element of a verdict map, as nft prints it, with a comment or without."""
    key = element[0]
    return str(key["elem"]["val"] if isinstance(key, dict) else key)
