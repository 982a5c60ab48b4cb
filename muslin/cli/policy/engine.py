"""The policy service's own compilation and evaluation, in this process: no kernel and no service is asked.

The command line is the one place besides the service that may import its core (tests/unit/test_boundaries.py): a second
implementation of policy would answer differently some day, and a process of its own would only carry messages about.
What is imported is pure; nothing here listens, connects or stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.policy.world import Declared, Endpoint, World
from muslin.errors import InvalidArgument
from muslin.kube.convert import policy_object
from muslin.kube.objects import Namespace, NetworkPolicy
from muslin.selectors import Selector
from services.policy import flows, wire
from services.policy.engine import Engine
from services.policy.events import EndpointPut, Event, ResourcePut
from services.policy.explain import View
from services.policy.model import Direction, Policy
from services.policy.records import Object
from services.policy.translate import Condition, Translation

__all__ = ["Endpoint", "Judge", "Refused", "check", "selected", "translated"]


class Refused(InvalidArgument):
    """An object that the policy service would refuse: the object, and the path in it that is to blame."""

    def __init__(self, item: Declared, path: str, message: str) -> None:
        super().__init__(f"{item.place(path)}: {item.label}: {message}")
        self.item, self.path, self.reason = item, path, message


def translated(item: Declared) -> Translation:
    """What the policy service makes of an object. Raises Refused."""
    message = item.message
    record = Object(message.kind, message.namespace, message.name, message.origin, msgspec.Raw(message.manifest))
    try:
        return record.translate()
    except InvalidArgument as problem:
        raise Refused(item, getattr(problem, "path", ""), problem.message) from None


def check(items: Iterable[Namespace | NetworkPolicy]) -> None:
    """Raise InvalidArgument if the policy service would refuse any; a line for each says where in its file and why."""
    complaints = []
    for item in items:
        try:
            translated(Declared(policy_object(item), item.origin))
        except Refused as refusal:
            complaints.append(refusal.message)
    if complaints:
        raise InvalidArgument("\n".join(complaints))


class Judge:
    """Answers of a world that is compiled here."""

    def __init__(self, world: World) -> None:
        """Compile. Raises Refused for the first object that can not be."""
        self.world = world
        found = [(item, translated(item)) for item in world.objects]
        self.policies = [(item, each.resource) for item, each in found if isinstance(each.resource, Policy)]
        """Those of the objects that are policies, in the order of the world."""
        self.conditions: list[tuple[Declared, Condition]] = [
            (item, condition) for item, each in found for condition in each.conditions]
        self.engine = Engine()
        events: list[Event] = [EndpointPut(wire.endpoint(record)) for record in world.endpoints]
        self.engine.handle([*events, *(ResourcePut(each.resource) for _, each in found)])
        self._view = View(self.engine.programs.values())

    async def explain(self, asked: Sequence[policy_pb2.Flow]) -> list[policy_pb2.Explanation]:
        """What decides each flow; the signature is that of the services'."""
        return self.answers(asked)

    def answers(self, asked: Sequence[policy_pb2.Flow]) -> list[policy_pb2.Explanation]:
        """The same at once."""
        return [wire.explanation(flows.answer(flow, self._view, f"flow {number}"))
                for number, flow in enumerate(asked, 1)]


def selected(world: World, selectors: Sequence[Selector]) -> list[set[str]]:
    """The containers of the endpoints that each selector selects, by all labels that endpoints have in the engine.

    Each is asked as a policy of its own: what an endpoint inherits of its namespace only the engine knows.
    """
    probes = [Policy(name=str(number), selector=selector, directions=frozenset({Direction.INGRESS}))
              for number, selector in enumerate(selectors)]
    engine = Engine()
    resources = [resource for item in world.objects
                 if not isinstance(resource := translated(item).resource, Policy)]
    events: list[Event] = [EndpointPut(wire.endpoint(record)) for record in world.endpoints]
    engine.handle([*events, *map(ResourcePut, resources), *map(ResourcePut, probes)])
    found: dict[str, set[str]] = {probe.id: set() for probe in probes}
    for program in engine.programs.values():
        for endpoint in program.endpoints.values():
            for key in (key for tier in endpoint.ingress for key in tier.policies):
                found[key].add(endpoint.attachment.container_id)
    return [found[probe.id] for probe in probes]
