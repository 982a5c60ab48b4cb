"""Questions about flows: who is meant, and which field an error names."""

from __future__ import annotations

import re

import pytest

from muslin.api.policy.v1 import policy_pb2
from muslin.errors import FailedPrecondition, InvalidArgument, MuslinError, NotFound
from services.policy.engine import Engine
from services.policy.events import EndpointPut
from services.policy.explain import View
from services.policy.flows import answer
from tests.unit.policy.cluster import Pod, namespace, put


def view() -> View:
    engine = Engine()
    pods = [Pod("x", "web", "10.0.0.1"), Pod("x", "six", "fd00::6"), Pod("x", "client", "10.0.0.2")]
    endpoints = [pod.endpoint() for pod in pods]
    no_address = Pod("x", "finished", "").endpoint()
    object.__setattr__(no_address, "addresses", ())
    engine.handle([*map(EndpointPut, [*endpoints, no_address]), put(namespace("x"))])
    return View(engine.programs.values())


def peer(name: str) -> policy_pb2.Peer:
    if not name:
        return policy_pb2.Peer()
    return policy_pb2.Peer(pod=name) if "/" in name else policy_pb2.Peer(address=name)


def flow(source: str, destination: str, protocol: str = "TCP", port: int = 80) -> policy_pb2.Flow:
    return policy_pb2.Flow(source=peer(source), destination=peer(destination), protocol=protocol, port=port)


@pytest.mark.parametrize(("question", "steps"), [
    (flow("x/client", "x/web"), 2),
    (flow("10.0.0.2", "10.0.0.1"), 2),  # addresses of pods are the pods
    (flow("x/client", "8.8.8.8"), 1),
    (flow("8.8.8.8", "x/web", "SCTP"), 1),
    (flow("FD00:0::6", "x/six"), 1),  # the same address in another writing: a pod to itself
    (flow("2001:db8::1", "x/six"), 1),
    (flow("8.8.8.8", "9.9.9.9"), 0),
])
def test_who_is_asked(question: policy_pb2.Flow, steps: int) -> None:
    assert steps == len(answer(question, view(), "flows[0]").steps)


@pytest.mark.parametrize(("question", "kind", "message"), [
    (flow("x/nobody", "x/web"), NotFound, "flows[3].source.pod: there is no endpoint of pod 'x/nobody'"),
    (flow("x/web", "x/nobody"), NotFound, "flows[3].destination.pod: there is no endpoint"),
    (flow("x/web", ""), InvalidArgument, "flows[3].destination: set pod or address"),
    (flow("", "x/web"), InvalidArgument, "flows[3].source: set pod or address"),
    (flow("web", "x/web"), InvalidArgument, "flows[3].source.address: 'web' is not an IP address"),
    (flow("x/web", "10.0.0.0.1"), InvalidArgument, "flows[3].destination.address"),
    (flow("x/web", "x/client", "tcp"), InvalidArgument,
     "flows[3].protocol: 'tcp' is not supported; use TCP, UDP, SCTP"),
    (flow("x/web", "x/client", ""), InvalidArgument, "flows[3].protocol: '' is not supported"),
    (flow("x/web", "x/client", port=0), InvalidArgument, "flows[3].port: 0 is not a port: use 1 to 65535"),
    (flow("x/web", "x/client", port=65536), InvalidArgument, "flows[3].port: 65536 is not a port"),
    (flow("x/web", "x/six"), FailedPrecondition,
     "flows[3].destination: pod x/six and pod x/web have no addresses of one"),
    (flow("x/finished", "x/web"), FailedPrecondition, "flows[3].source.pod: pod x/finished has no address"),
])
def test_errors_name_the_field(question: policy_pb2.Flow, kind: type[MuslinError], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        answer(question, view(), "flows[3]")
