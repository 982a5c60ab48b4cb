"""Messages of kept parts are those that are made of the update itself."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muslin.api.policy.v1 import policy_pb2
from services.policy import encoding, wire
from services.policy.encoding import Encoder, Outgoing
from services.policy.engine import Engine
from services.policy.events import EndpointPut, Event, ResourceGone
from services.policy.program import EMPTY, Update, diff
from tests.unit.policy.cluster import Pod, namespace, network_policy, put
from tests.unit.policy.strategies import PODS, pods, policies, spaces

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.sampled_from(PODS).flatmap(pods).map(lambda pod: EndpointPut(pod.endpoint())), policies().map(put),
    spaces().map(put), policies().map(lambda manifest: ResourceGone(put(manifest).resource.id)))


def same(encoder: Encoder, update: Update) -> None:
    expected = wire.subscribe_response(update, 7, snapshot=True, resume="r")
    raw = encoder.response(update, 7, snapshot=True, resume="r")
    assert policy_pb2.SubscribeResponse.FromString(raw) == expected


@settings(deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=6), max_size=6))
def test_messages_are_the_same_whatever_was_sent_before(batches: list[list[Event]]) -> None:
    """Of each node's change, and of its whole program."""
    engine, encoder = Engine(), Encoder()
    for batch in batches:
        for update in engine.handle(batch).values():
            same(encoder, update)
        for program in engine.programs.values():
            same(encoder, diff(EMPTY, program))


def test_a_part_is_made_once_for_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, encoder = Engine(), Encoder()
    engine.handle([put(namespace("x")), put(network_policy("x", "p", {"ingress": [{"from": [{"podSelector": {}}]}]})),
                   *(EndpointPut(Pod("x", f"p{n}", f"10.0.0.{n}", node=f"n{n}").endpoint()) for n in range(5))])
    made: list[Update] = []
    plain = wire.subscribe_response

    def noted(update: Update, revision: int, *, snapshot: bool, resume: str) -> policy_pb2.SubscribeResponse:
        made.append(update)
        return plain(update, revision, snapshot=snapshot, resume=resume)

    monkeypatch.setattr(wire, "subscribe_response", noted)
    for program in engine.programs.values():
        encoder.response(diff(EMPTY, program), 1, snapshot=True, resume="r")
    assert len([update for update in made if update.policies or update.groups]) == 3  # policy, profile, group


def test_a_message_is_not_held_once_it_is_sent() -> None:
    """What a handler gave last is kept by grpcio, of each stream."""
    message = Outgoing(b"long")
    assert (message.take(), message.take()) == (b"long", b"")


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "KEPT", 2)
    encoder, engine = Encoder(), Engine()
    engine.handle([EndpointPut(Pod("x", "a", "10.0.0.1").endpoint()), *(put(network_policy("x", f"p{n}", {
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"n": str(n)}}}]}]})) for n in range(9))])
    update = diff(EMPTY, engine.program("n1"))
    assert len(update.policies) == 9
    same(encoder, update)
    assert max(len(encoder._policies), len(encoder._groups)) <= 2
