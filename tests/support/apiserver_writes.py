"""What an API server makes of patches: as much of it as the tests need. No I/O."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

STRATEGIC, STEPS = "application/strategic-merge-patch+json", "application/json-patch+json"

_MERGED_BY = {"conditions": "type", "taints": "key"}
"""Lists that are merged, and the field that tells their items apart, as Kubernetes' types declare it."""


class Unfit(Exception):
    """The object is not as the patch expects it."""


def strategic(before: Any, change: Any) -> Any:
    """A strategic merge patch."""
    if not isinstance(before, dict) or not isinstance(change, dict):
        return deepcopy(change)
    after = dict(before)
    for key, value in change.items():
        if value is None:
            after.pop(key, None)
        elif key in _MERGED_BY and isinstance(value, list):
            items = {item[_MERGED_BY[key]]: item for item in after.get(key) or ()}
            for item in value:
                name = item[_MERGED_BY[key]]
                items[name] = strategic(items.get(name, {}), item)
            after[key] = list(items.values())
        else:
            after[key] = strategic(after.get(key), value)
    return after


def steps(before: Any, made: list[dict[str, Any]]) -> Any:
    """A JSON Patch, of the operations test, remove, add and replace."""
    after = deepcopy(before)
    for step in made:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]]
        place = after
        try:
            for part in way:
                place = place[int(part) if isinstance(place, list) else part]
            key = int(last) if isinstance(place, list) else last
            if step["op"] == "test":
                if place[key] != step["value"]:
                    raise Unfit(f"{step['path']} is {place[key]!r}")
            elif step["op"] == "remove":
                del place[key]
            elif isinstance(place, list) and step["op"] == "add":
                place.insert(key, step["value"])
            else:
                place[key] = step["value"]
        except (KeyError, IndexError, TypeError) as problem:
            raise Unfit(f"{step['path']}: {problem!r}") from None
    return after
