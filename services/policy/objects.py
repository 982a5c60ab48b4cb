"""Objects as their users know them: kinds, names, and what is said about them. What all translations share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.policy.fields import Field, FieldError
from services.policy.model import Resource

CALICO_POLICY = "NetworkPolicy.projectcalico.org"
"""What Calico's NetworkPolicy is called, to tell it from Kubernetes'; as kubectl does it."""
NAMESPACED = ("NetworkPolicy", CALICO_POLICY, "ServiceAccount")
"""Kinds of objects that are in a namespace."""
POLICY_KINDS = ("NetworkPolicy", CALICO_POLICY, "GlobalNetworkPolicy")
"""Kinds of objects that become policies."""
KINDS = ("Namespace", "GlobalNetworkPolicy", "Tier", "Profile", *NAMESPACED)
"""What can be translated."""
_LABEL_NAMED = ("Namespace", "Tier")


@dataclass(frozen=True, slots=True)
class Condition:
    """A reservation about an object: where, and what is wrong and was done about it."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of an object."""

    resource: Resource
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Ref:
    """Name of an object; the namespace is empty for what is in none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def check(ref: Ref) -> None:
    """Whether an object can be called so.

    Raises:
        FieldError: it can not.
    """
    if ref.kind not in KINDS:
        raise FieldError("kind", f"{ref.kind!r} is not supported; use {', '.join(KINDS)}")
    if not ref.name:
        raise FieldError("metadata.name", "is missing")
    name = Field(ref.name, "metadata.name")
    if ref.kind in NAMESPACED:
        if not ref.namespace:
            raise FieldError("metadata.namespace", "is missing")
        Field(ref.namespace, "metadata.namespace").dns_label()
    elif ref.namespace:
        raise FieldError("metadata.namespace", f"a {ref.kind} is in none: leave it out")
    if ref.kind in _LABEL_NAMED:
        name.dns_label()
    elif ref.kind == "Profile":
        name.object_name()
    else:
        name.dns_subdomain()


def header(ref: Ref, top: dict[str, Field], versions: Sequence[str], kind: str) -> dict[str, str]:
    """Check what an object says it is; returns its labels.

    Raises:
        FieldError: it is another one, or says too little.
    """
    for key, expected in (("apiVersion", tuple(versions)), ("kind", (kind,))):
        if key not in top:
            raise FieldError(key, f"is missing; it must be {' or '.join(expected)}")
        top[key].one_of(expected)
    metadata = top["metadata"].fields() if "metadata" in top else {}
    for key, wanted in (("name", ref.name), ("namespace", ref.namespace)):
        if key in metadata and metadata[key].text() != wanted:
            raise metadata[key].error(f"is {metadata[key].text()!r}, and {wanted!r} where the object is named")
    return metadata["labels"].labels() if "labels" in metadata else {}
