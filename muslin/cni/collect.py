"""The GC verb: the runtime lists the attachments of a network that are alive on a node, the rest is freed."""

from __future__ import annotations

import json
from collections.abc import Iterator

from muslin.errors import Corrupt, InvalidArgument

KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""Where the list is: CNI specification 1.1, "GC", and what its drafts called it."""


def valid(config: bytes) -> frozenset[tuple[str, str]] | None:
    """Container id and interface name of the attachments that are alive; None if the configuration has no list.

    A list that is missing is not an empty one: it says nothing, so nothing may be freed for it.

    Raises:
        Corrupt, InvalidArgument: naming what is wrong; then nothing may be freed either.
    """
    try:
        document = json.loads(config)
    except ValueError as problem:
        raise Corrupt(f"network configuration is not JSON: {problem}") from None
    if not isinstance(document, dict):
        raise Corrupt("network configuration is not a JSON object")
    lists = [(key, document[key]) for key in KEYS if document.get(key) is not None]
    if not lists:
        return None
    return frozenset(pair for key, listed in lists for pair in _pairs(key, listed))


def _pairs(key: str, listed: object) -> Iterator[tuple[str, str]]:
    if not isinstance(listed, list):
        raise InvalidArgument(f"{key} must be a list of attachments")
    for number, item in enumerate(listed):
        container_id, ifname = (item.get("containerID"), item.get("ifname")) if isinstance(item, dict) else ("", "")
        if not isinstance(container_id, str) or not isinstance(ifname, str) or not container_id or not ifname:
            raise InvalidArgument(f"{key}[{number}] must be an object with containerID and ifname, both strings that "
                                  "are not empty")
        yield container_id, ifname
