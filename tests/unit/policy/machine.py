"""A cluster that lives: texts and pods come and go, and two nodes have in their tables what they were sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from muslin.kube.manifest import parse
from muslin.kube.objects import Namespace, NetworkPolicy
from services.node.attachment import Attachment
from services.node.enforce import table
from services.node.enforce.program import Update as NodeUpdate
from services.node.enforce.program import from_message
from services.node.enforce.state import Claim, State, applied
from services.policy import wire
from services.policy.engine import Engine
from services.policy.events import EndpointGone, EndpointPut, Event, ResourceGone, ResourcePut
from services.policy.explain import Packet, View, explain
from services.policy.model import PROTOCOLS
from services.policy.program import EMPTY, Update, diff
from services.policy.records import Object
from services.policy.translate import Ref, Translation
from tests.support.oracle import Flow
from tests.unit.node.model import Packet as Frame
from tests.unit.node.model import Table
from tests.unit.policy.cluster import Pod, namespace

NODES = ("n1", "n2")
UPLINK = "eth0"
FILE = "fuzz.yaml"


class Node:
    """What a node makes of its messages: a table, of which every byte is read back by the model of the kernel."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        """All pods are wired here; which are its own, the program says."""
        self.table = Table()
        self.table.commit(table.replacement((), ("cali",)))
        self._state = State()
        self._revision = 0
        for endpoint in (pod.endpoint() for pod in pods):
            self._take(Claim(Attachment(*endpoint.attachment), endpoint.interface))
        self.update(Update())

    def update(self, update: Update) -> None:
        """Take what the policy service sends: a snapshot first."""
        self._revision += 1
        message = wire.subscribe_response(update, self._revision, snapshot=self._revision == 1, resume="")
        self._take(from_message(type(message).FromString(message.SerializeToString())))

    def _take(self, event: Claim | NodeUpdate) -> None:
        old = self._state.parts
        self._state, changed = applied(self._state, event)
        new = self._state.parts
        for messages in table.transition((old[o] for o in changed if o in old), (new[o] for o in changed if o in new)):
            self.table.commit(messages)


class Machine:
    """Objects by their texts; pods; what an engine makes of it step by step."""

    def __init__(self, pods: Iterable[Pod], spaces: Iterable[str]) -> None:
        """With a pod of each name that there will ever be, and their namespaces."""
        self.pods = {pod.workload: pod for pod in pods}
        self.objects: dict[Ref, dict[str, Any]] = {}
        self.engine = Engine()
        self._names = tuple(self.pods.values())
        self._resources: dict[Ref, Translation] = {}
        self._events: dict[object, Event] = {}
        self.nodes = {name: Node(self._names) for name in NODES}
        manifests = {Ref("Namespace", "", name): json.dumps(namespace(name)).encode() for name in spaces}
        self.handle([*(EndpointPut(pod.endpoint()) for pod in self._names), *self._put(manifests)])

    def read(self, text: str) -> list[Event]:
        """The events of a text, as applying it gives: all of it, or nothing where anything is wrong.

        Raises:
            InvalidArgument: something is; nothing has changed.
        """
        return self._put({Ref(item.kind, item.namespace, item.name): item.manifest for item in parse(text, FILE)
                          if isinstance(item, Namespace | NetworkPolicy)})

    def _put(self, manifests: Mapping[Ref, bytes]) -> list[Event]:
        made = {ref: Object(ref.kind, ref.namespace, ref.name, FILE, msgspec.Raw(manifest)).translate()
                for ref, manifest in manifests.items()}
        self._resources |= made
        self.objects |= {ref: json.loads(manifest) for ref, manifest in manifests.items()}
        return [ResourcePut(translation.resource) for translation in made.values()]

    def remove(self, ref: Ref) -> list[Event]:
        """An object is deleted; if it is not there, nothing happens."""
        if self.objects.pop(ref, None) is None:
            return []
        return [ResourceGone(self._resources.pop(ref).resource.id)]

    def put_pod(self, pod: Pod) -> list[Event]:
        """A pod is new, or has other labels, ports or another node."""
        self.pods[pod.workload] = pod
        return [EndpointPut(pod.endpoint())]

    def remove_pod(self, workload: str) -> list[Event]:
        """A pod is gone."""
        pod = self.pods.pop(workload, None)
        return [EndpointGone(pod.endpoint().attachment)] if pod is not None else []

    def handle(self, events: list[Event]) -> None:
        """Compile, and send each node what changes for it."""
        for event in events:
            self._events[_key(event)] = event
        for node, update in self.engine.handle(events).items():
            self.nodes[node].update(update)

    @property
    def conditions(self) -> bool:
        """Whether any rule or peer was dropped."""
        return any(translation.conditions for translation in self._resources.values())

    def check_compiled(self) -> None:
        """What was reached step by step is what is compiled from nothing, for the engine and for each node."""
        fresh = Engine()
        fresh.handle(self._events.values())
        assert dict(fresh.programs) == dict(self.engine.programs)
        for name, node in self.nodes.items():
            anew = Node(self._names)
            anew.update(diff(EMPTY, fresh.program(name)))
            assert anew.table.content() == node.table.content()

    def verdicts(self, ports: Iterable[int], protocols: Iterable[str], outside: Iterable[str]) -> dict[Flow, bool]:
        """What Explain says of each flow."""
        view = View(self.engine.programs.values())
        sides = {pod.address: pod for pod in self.pods.values()} | dict.fromkeys(outside)
        found = {}
        for (source, destination), protocol, port in itertools.product(
                itertools.permutations(sides, 2), protocols, ports):
            if sides[source] is None and sides[destination] is None:
                continue
            packet = Packet(source, destination, PROTOCOLS[protocol], port)
            said = explain(packet, view.address(source), view.address(destination))
            found[Flow(source, destination, protocol, port)] = said.allowed is True
        return found

    def enforced(self, flow: Flow) -> bool:
        """What the tables do with a flow between addresses."""
        pods = {pod.address: pod for pod in self.pods.values()}
        return self._passes(flow.source, pods.get(flow.source), flow.destination, pods.get(flow.destination),
                            PROTOCOLS[flow.protocol], flow.port)

    def _passes(self, source: str, sender: Pod | None, destination: str, receiver: Pod | None, protocol: int,
                port: int) -> bool:
        """Through the sender's node and the receiver's, or through the one that is both."""
        leaves, enters = (_interface(pod) for pod in (sender, receiver))
        if sender is not None and receiver is not None and sender.node == receiver.node:
            return self.nodes[sender.node].table.allows(Frame(source, destination, protocol, port, leaves, enters))
        return ((sender is None or self.nodes[sender.node].table.allows(
                    Frame(source, destination, protocol, port, leaves, UPLINK)))
                and (receiver is None or self.nodes[receiver.node].table.allows(
                    Frame(source, destination, protocol, port, UPLINK, enters))))


def _interface(pod: Pod | None) -> str:
    return pod.endpoint().interface if pod is not None else UPLINK


def _key(event: Event) -> object:
    match event:
        case EndpointPut(endpoint):
            return endpoint.attachment
        case EndpointGone(attachment):
            return attachment
        case ResourcePut(resource):
            return resource.id
        case ResourceGone(resource_id):
            return resource_id

