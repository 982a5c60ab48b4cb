"""What this service keeps in etcd: JSON, one value a key, readable with etcdctl.

=====================================  ==========================================================
key (muslin.etcd.keys)                 value
=====================================  ==========================================================
objects/KIND/NAMESPACE/NAME            `Object`: a Kubernetes object as its user wrote it
profiles/NAME                          `StoredProfile`: a network's, made on its first use
=====================================  ==========================================================
"""

from __future__ import annotations

import msgspec

from muslin.errors import Corrupt, InvalidArgument, MuslinError
from muslin.etcd import keys
from muslin.selectors import Has, parse
from services.policy import labels as names
from services.policy.model import NAMESPACE_PROFILE_PREFIX, Action, Profile, Rule
from services.policy.translate import Ref, Translation, translate

MAX_MANIFEST = 1 << 20
"""Bytes of one manifest. etcd takes 1.5 MiB in one request."""


KUBERNETES = "kubernetes"
"""`Object.source` of what follows an API server."""


class Object(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Kubernetes object and where it came from."""

    kind: str
    namespace: str
    name: str
    origin: str
    manifest: msgspec.Raw
    """The whole object, JSON inside JSON."""
    source: str = ""
    """Who looks after it: KUBERNETES, or empty for whoever applied it."""
    problem: str = ""
    """Why it can not be what its user wrote; the manifest is then at most what it is for."""

    @property
    def ref(self) -> Ref:
        """Its name."""
        return Ref(self.kind, self.namespace, self.name)

    @property
    def key(self) -> str:
        """Its key in etcd."""
        return keys.policy_object(self.kind, self.namespace, self.name)

    def translate(self) -> Translation:
        """What it means.

        A policy that an API server has taken is not refused for what is not understood of it; see `translate`.

        Raises:
            InvalidArgument: it is not JSON, or the API server would refuse it; the message names the field. Or it is
                only in the place of another.
        """
        if self.problem:
            raise InvalidArgument(self.problem)
        if len(bytes(self.manifest)) > MAX_MANIFEST:
            raise InvalidArgument(f"manifest: {len(bytes(self.manifest))} bytes are more than {MAX_MANIFEST}")
        try:
            document = msgspec.json.decode(self.manifest)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
            raise InvalidArgument(f"manifest: is not JSON: {problem}") from None
        return translate(self.ref, document, self.origin, taken=self.source == KUBERNETES)


class StoredRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A rule of a profile. What is unknown is refused: a part that is left out would make the rule match more."""

    action: str
    selector: str = ""
    """Of the peers; empty for any."""


class StoredProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A profile of which the user is master: it is made if there is none, and never changed."""

    labels: dict[str, str]
    """That its members get."""
    ingress: tuple[StoredRule, ...]
    egress: tuple[StoredRule, ...]


def network_profile(name: str, *, kubernetes: bool) -> StoredProfile:
    """What a network gets on its first use, as Calico has it.

    All egress; ingress from everywhere if Kubernetes runs it, which has policies of its own, else from its own network.
    """
    label = names.PROFILE_PREFIX + name
    peers = "" if kubernetes else str(Has(label))
    return StoredProfile({label: ""}, (StoredRule("allow", peers),), (StoredRule("allow"),))


def ref_of(key: str) -> Ref:
    """The name of the object at a key. Raises Corrupt if it is no such key."""
    return Ref(*keys.parse_policy_object(key))


def encode(record: Object | StoredProfile) -> bytes:
    """A record as JSON."""
    return msgspec.json.encode(record)


def decode_object(key: str, value: bytes) -> Object:
    """Read an object.

    Raises:
        Corrupt: it is none, or not that of its key.
    """
    try:
        record = msgspec.json.decode(value, type=Object)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as problem:
        raise Corrupt(f"{key}: {problem}") from None
    if keys.parse_policy_object(key) != (record.kind, record.namespace, record.name):
        raise Corrupt(f"{key} holds {record.ref}")
    return record


def decode_profile(key: str, value: bytes) -> Profile:
    """Read a profile.

    Raises:
        Corrupt: it is none, or it bears a namespace's name.
    """
    name = keys.parse_profile(key)
    if name.startswith(NAMESPACE_PROFILE_PREFIX):
        raise Corrupt(f"{key}: profiles called {NAMESPACE_PROFILE_PREFIX}* are made of Namespaces")
    try:
        record = msgspec.json.decode(value, type=StoredProfile)
        ingress, egress = _rules(record.ingress, "ingress"), _rules(record.egress, "egress")
    except (msgspec.MsgspecError, RecursionError, ValueError, MuslinError) as problem:
        raise Corrupt(f"{key}: {problem}") from None
    own = {label: text for label, text in record.labels.items() if label.startswith(names.PROFILE_PREFIX)}
    return Profile(name, own, ingress, egress, origin=f"profile {name}")


def _rules(rules: tuple[StoredRule, ...], direction: str) -> tuple[Rule, ...]:
    return tuple(Rule(Action(rule.action), f"{direction}[{i}]", peer=parse(rule.selector) if rule.selector else None)
                 for i, rule in enumerate(rules))
