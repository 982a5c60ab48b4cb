"""Kubernetes' own schemas, strict: a field that it does not know is an error.

They come with kubernetes-validate, whose code would read all of them anew for each object.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft4Validator, ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT4

__all__ = ["NEW", "OLD", "Invalid", "valid"]

OLD, NEW = "1.20", "1.28"
"""The oldest that is supported, and the newest that the same release of kubernetes-validate has."""


class Invalid(Exception):
    """An object is not what that version of the API takes."""


def valid(manifest: dict[str, Any], version: str) -> None:
    """Raises Invalid."""
    group, _, api = manifest["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (manifest["kind"].lower(), group.removesuffix(".k8s.io").split(".")[0], api)))
    try:
        _validator(name, version).validate(manifest)
    except FileNotFoundError:
        raise Invalid(f"{version} does not know {manifest['apiVersion']} {manifest['kind']}") from None
    except ValidationError as problem:
        raise Invalid(f"{version}: {manifest['kind']} {manifest['metadata']['name']}: {problem.json_path}: "
                      f"{problem.message[:300]}") from None


@cache
def _validator(name: str, version: str) -> Draft4Validator:
    return Draft4Validator(_read(f"{name}.json", version), registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    shared = DRAFT4.create_resource(_read("_definitions.json", version))
    known: Registry[Any] = Registry().with_resource("_definitions.json", shared)
    return known


def _read(name: str, version: str) -> Any:
    place = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict" / name
    return json.loads(place.read_text())
