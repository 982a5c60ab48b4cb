"""YAML texts: NetworkPolicies and Namespaces that are right, nearly right, and garbage."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from hypothesis import strategies as st

from tests.unit.policy.strategies import NAMESPACES, policies, spaces

_ODD: list[Any] = [
    None, True, 0, -1, 1, 80, 65535, 65536, 1 << 40, 1.5, float("inf"), "", " ", "a", "web", "80", "UDP", "tcp", "In",
    "Ingress", "Egress", "x" * 64, "x" * 300, "é", "\0", "\ud7ff", "a/b/c", "pcns.team", "projectcalico.org/namespace",
    "10.0.0.0/8", "10.0.0.1/31", "10.0.0.0/33", "010.0.0.0/8", "::/0", "::ffff:10.0.0.0/104", "fe80::%eth0/64",
    [], [None], [[]], {}, {"": ""}, {"podSelector": {}}, {"podSelector": None}, {"ipBlock": {"cidr": "0.0.0.0/0"}},
    {"matchLabels": {"app": None}}, {"matchLabels": {"app": "1"}},
    {"key": "app", "operator": "Exists", "values": ["1"]},
    {"port": 80, "endPort": 79}, {"port": "web", "endPort": 81}, {"port": 81, "endPort": 443}, {"protocol": "ICMP"}]
"""Values for any place: each is right somewhere, or looks so."""
_NAMES = ["from", "to", "ports", "port", "endPort", "protocol", "podSelector", "namespaceSelector", "ipBlock", "cidr",
          "except", "matchLabels", "matchExpressions", "key", "operator", "values", "ingress", "egress", "policyTypes",
          "metadata", "name", "namespace", "spec", "kind", "apiVersion", "podSelektor", "", "a b"]

_PIECES = ["\n", "  ", "- ", ": ", "*a", "&a ", "<<: ", "!!int ", "---\n", "{", "]", "\t", "'", '"', "|\n", "0x",
           "\ufeff", "\0", "#"]

manifests = st.one_of(policies(), policies(), policies(), spaces())
"""Right ones."""


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with every key of it, from the top down."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest with a few things changed, so that it may be right or wrong."""
    manifest: dict[str, Any] = copy.deepcopy(draw(manifests))
    for _ in range(draw(st.integers(1, 3))):
        places = _places(manifest)
        if not places:
            break
        container, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "repeat", "add"])):
            case "replace":
                container[key] = copy.deepcopy(draw(st.sampled_from(_ODD)))
            case "remove":
                del container[key]
            case "rename" if isinstance(container, dict):
                container[draw(st.sampled_from(_NAMES))] = container.pop(key)
            case "repeat" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case _ if isinstance(container, dict):
                container[draw(st.sampled_from(_NAMES))] = copy.deepcopy(draw(st.sampled_from(_ODD)))
            case _:
                container.append(copy.deepcopy(draw(st.sampled_from(_ODD))))
    return manifest


def _written(manifest: Any, style: int) -> str:
    if style == 0:
        return json.dumps(manifest)
    return str(yaml.safe_dump(manifest, default_flow_style=None if style == 1 else False, allow_unicode=style == 2))


@st.composite
def torn(draw: st.DrawFn, text: str) -> str:
    """A text with pieces cut out, doubled, or put in."""
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(["", "", text[begin:end] * 2, *_PIECES]))
        text = text[:begin] + piece + text[end:]
    return text


texts = st.one_of(
    st.builds(_written, manifests, st.integers(0, 2)),
    st.builds(_written, spoilt(), st.integers(0, 2)),
    st.builds(_written, spoilt(), st.integers(0, 2)),
    st.builds(_written, manifests, st.integers(0, 2)).flatmap(torn),
    st.lists(st.builds(_written, st.one_of(manifests, spoilt()), st.just(2)), max_size=3).map("\n---\n".join),
)
"""Texts, of which about half hold objects."""
garbage = st.one_of(st.text(max_size=200), st.text("{}[]:-,&*!|>'\"%@ \n\ta0~<", max_size=80))

names = st.tuples(st.sampled_from(NAMESPACES), st.sampled_from("pq"))
"""Names of policies, to delete them."""
