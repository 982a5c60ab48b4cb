"""The API for people: what is wanted, and why a flow is decided as it is."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import grpc
import msgspec

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import InvalidArgument
from muslin.rpc import remaining
from services.policy import flows, wire
from services.policy.records import Object
from services.policy.replica import Replica
from services.policy.translate import Condition, Ref, check

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

MAX_COMPLAINTS, MAX_COMPLAINT = 20, 300
"""Objects that one refusal names, and characters about each: the message must fit into a gRPC header."""


class Policies(policy_pb2_grpc.PoliciesServicer):
    """Objects in and out, and explanations."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    async def Apply(self, request: policy_pb2.ApplyRequest, context: Context) -> policy_pb2.ApplyResponse:
        """Check all, store all, and answer once they are compiled here: an ADD that follows is enforced with them."""
        objects, conditions = checked(request.objects)
        revision = await self._replica.store.put(objects, remaining(context))
        await self._replica.reached(revision, remaining(context))
        log.info("applied objects=%d conditions=%d revision=%d", len(objects), len(conditions), revision)
        return policy_pb2.ApplyResponse(conditions=_conditions(conditions),
                                        revision=revision or self._replica.mirror.revision)

    async def Delete(self, request: policy_pb2.DeleteRequest, context: Context) -> policy_pb2.DeleteResponse:
        """Remove all that there are, and answer once that is compiled here."""
        refs = [Ref(ref.kind, ref.namespace, ref.name) for ref in request.objects]
        for i, ref in enumerate(refs):
            try:
                check(ref)
            except InvalidArgument as problem:
                raise InvalidArgument(f"objects[{i}]: {problem.message}") from None
        gone, revision = await self._replica.store.delete(refs, remaining(context))
        await self._replica.reached(revision, remaining(context))
        log.info("deleted objects=%d revision=%d", len(gone), revision)
        return policy_pb2.DeleteResponse(deleted=map(_ref, gone), revision=revision or self._replica.mirror.revision)

    async def List(self, request: policy_pb2.ListRequest, context: Context) -> policy_pb2.ListResponse:
        """All objects, as this replica has them."""
        sources = self._replica.sources
        return policy_pb2.ListResponse(
            objects=[policy_pb2.Object(kind=item.kind, namespace=item.namespace, name=item.name, origin=item.origin,
                                       manifest=bytes(item.manifest)) for item in sources.objects()],
            conditions=_conditions(sources.conditions()))

    async def Explain(self, request: policy_pb2.ExplainRequest, context: Context) -> policy_pb2.ExplainResponse:
        """What decides each flow, by the programs that nodes have been sent."""
        self._replica.check_compiled()
        view = self._replica.hub.view()
        return policy_pb2.ExplainResponse(explanations=[
            wire.explanation(flows.answer(flow, view, f"flows[{i}]")) for i, flow in enumerate(request.flows)])


def checked(objects: Iterable[policy_pb2.Object]) -> tuple[list[Object], list[tuple[Ref, Condition]]]:
    """The records of objects, and what there is to say about them.

    Raises:
        InvalidArgument: at least one would be refused by the API server, or is there twice; the message has a line for
            each, with origin, name and path.
    """
    result: dict[Ref, Object] = {}
    conditions: list[tuple[Ref, Condition]] = []
    complaints: list[str] = []
    for message in objects:
        ref = Ref(message.kind, message.namespace, message.name)
        where = f"{message.origin}: {ref}" if message.origin else str(ref)
        record = Object(message.kind, message.namespace, message.name, message.origin, msgspec.Raw(message.manifest))
        if ref in result:
            complaints.append(f"{where}: is there twice (also in {result[ref].origin or 'this request'}); remove one")
            continue
        result[ref] = record
        try:
            conditions += [(ref, condition) for condition in record.translate().conditions]
        except InvalidArgument as problem:
            complaints.append(f"{where}: {problem.message}"[:MAX_COMPLAINT])
    if complaints:
        more = [f"and {len(complaints) - MAX_COMPLAINTS} more"] if len(complaints) > MAX_COMPLAINTS else []
        raise InvalidArgument("\n".join([*complaints[:MAX_COMPLAINTS], *more]))
    return list(result.values()), conditions


def _ref(ref: Ref) -> policy_pb2.ObjectRef:
    return policy_pb2.ObjectRef(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def _conditions(conditions: Iterable[tuple[Ref, Condition]]) -> list[policy_pb2.Condition]:
    return [policy_pb2.Condition(object=_ref(ref), path=condition.path, message=condition.message)
            for ref, condition in conditions]
