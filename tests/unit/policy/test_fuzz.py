"""Texts and changes that nobody thought of: no crash, nothing opened, and every way to a state gives the same state.

MUSLIN_FUZZ_EXAMPLES sets how many examples each test has.

The texts are made by a grammar and then spoilt. A fuzzer led by coverage, such as atheris, would pay little here: YAML
is taken apart in C, where it sees nothing, and most of what is mutated byte by byte is refused before it says anything.
"""

from __future__ import annotations

import os
import random
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from muslin.errors import InvalidArgument
from muslin.kube.manifest import parse
from services.policy.model import PROTOCOLS
from services.policy.translate import Ref
from tests.support.oracle import Oracle
from tests.unit.policy.cluster import Pod
from tests.unit.policy.documents import garbage, names, texts
from tests.unit.policy.machine import FILE, Machine
from tests.unit.policy.strategies import NAMESPACES, OUTSIDE, PODS, pods
from tests.unit.policy.test_against_oracle import plain

EXAMPLES = int(os.environ.get("MUSLIN_FUZZ_EXAMPLES", "60"))
PORTS = (80, 443)
TABLES = 50
"""Flows that are put to the nodes' tables, whose model is slow; all are put to Explain and the documentation."""

Action = tuple[str, Any]
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    *[st.tuples(st.just("text"), texts)] * 4,
    st.tuples(st.just("garbage"), garbage),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("pod"), st.sampled_from(PODS).flatmap(pods)),
    st.tuples(st.just("no pod"), st.sampled_from(PODS).map("/".join)),
)


@settings(max_examples=EXAMPLES)
@given(st.one_of(texts, garbage))
def test_a_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        event(f"{len(parse(text, FILE))} objects")
    except InvalidArgument as problem:
        event("refused")
        said = problem.message
    else:
        return
    assert said.startswith(f"{FILE}, document ")
    assert "\n" not in said


@settings(max_examples=EXAMPLES)
@given(st.tuples(*map(pods, PODS)), st.lists(st.lists(ACTIONS, min_size=1, max_size=3), min_size=1, max_size=4),
       st.integers(0, 1 << 32))
def test_explain_tables_and_documentation_agree_after_any_changes(start: tuple[Pod, ...], batches: list[list[Action]],
                                                                  seed: int) -> None:
    """Each batch is compiled at once and sent to two nodes; a text that is refused leaves what was there."""
    machine = Machine(start, NAMESPACES)
    for batch in batches:
        events = []
        for kind, what in batch:
            match kind:
                case "text" | "garbage":
                    before = dict(machine.objects)
                    try:
                        events += machine.read(what)
                    except InvalidArgument:
                        event("refused")
                        assert machine.objects == before
                case "delete":
                    events += machine.remove(Ref("NetworkPolicy", *what))
                case "pod":
                    events += machine.put_pod(what)
                case "no pod":
                    events += machine.remove_pod(what)
        machine.handle(events)
    machine.check_compiled()
    verdicts = machine.verdicts(PORTS, PROTOCOLS, OUTSIDE)
    some = random.Random(seed).sample(sorted(verdicts), min(len(verdicts), TABLES))
    assert [str(flow) for flow in some if machine.enforced(flow) != verdicts[flow]] == []
    if machine.conditions:
        event("rules were dropped")
        return
    oracle = Oracle(map(plain, machine.pods.values()), objects(machine, "Namespace"), objects(machine, "NetworkPolicy"))
    assert [str(flow) for flow, verdict in verdicts.items() if oracle.allowed(flow) != verdict] == []


def objects(machine: Machine, kind: str) -> list[dict[str, Any]]:
    """Manifests of a kind."""
    return [manifest for ref, manifest in machine.objects.items() if ref.kind == kind]
