"""The API for people: what is wanted, and why a flow is decided as it is."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import grpc
import msgspec

from muslin.api.policy.v1 import policy_pb2, policy_pb2_grpc
from muslin.errors import FailedPrecondition, InvalidArgument
from muslin.rpc import remaining
from services.policy import flows, status, wire
from services.policy.model import DEFAULT_TIER, Policy
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
        objects, conditions = checked(request.objects, self._replica.sources.tiers())
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
        self._check_tiers(refs)
        gone, revision = await self._replica.store.delete(refs, remaining(context))
        await self._replica.reached(revision, remaining(context))
        log.info("deleted objects=%d revision=%d", len(gone), revision)
        return policy_pb2.DeleteResponse(deleted=map(_ref, gone), revision=revision or self._replica.mirror.revision)

    def _check_tiers(self, refs: Sequence[Ref]) -> None:
        """Raise FailedPrecondition if a tier would go while policies are in it, whose order would change."""
        for ref in (ref for ref in refs if ref.kind == "Tier"):
            staying = [item for item in self._replica.sources.in_tier(ref.name) if item not in refs]
            if staying:
                raise FailedPrecondition(f"{ref} still has {staying[0]} in it"
                                         f"{f' and {len(staying) - 1} more' if len(staying) > 1 else ''}; delete that "
                                         "too, or first")

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

    async def GetStatus(self, request: policy_pb2.GetStatusRequest, context: Context) -> policy_pb2.GetStatusResponse:
        """How far nodes lag, and where each policy is enforced, as far as this replica knows.

        Raises:
            Unavailable: there are no programs yet.
        """
        self._replica.check_compiled()
        sources, streams, programs = self._replica.sources, self._replica.streams, self._replica.hub.programs
        # Before the rest, which takes its time: what is said to be enforced must be so at this revision.
        revision, listed = self._replica.mirror.revision, sources.policies()
        places = await status.where_by_and_by(programs, streams)
        return policy_pb2.GetStatusResponse(
            nodes=[wire.node_status(*node) for node in status.nodes(programs, streams)],
            policies=[wire.policy_status(item, _ref(item.ref), _conditions((item.ref, c) for c in item.conditions),
                                         places.get(item.policy, status.NOWHERE)) for item in listed],
            revision=revision)


def checked(objects: Iterable[policy_pb2.Object],
            tiers: Collection[str] = (DEFAULT_TIER.name,)) -> tuple[list[Object], list[tuple[Ref, Condition]]]:
    """The records of objects, and what there is to say about them. `tiers` are those that there are already.

    Raises:
        InvalidArgument: at least one would be refused by the API server, or is there twice, or is in a tier that is
            not there; the message has a line for each, with origin, name and path.
    """
    result: dict[Ref, Object] = {}
    wanted: dict[str, str] = {}  # by tier, what is to say if it is not there
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
            translation = record.translate()
        except InvalidArgument as problem:
            complaints.append(f"{where}: {problem.message}"[:MAX_COMPLAINT])
            continue
        conditions += [(ref, condition) for condition in translation.conditions]
        if isinstance(policy := translation.resource, Policy):
            tier = policy.tier.name
            wanted.setdefault(tier, f"{where}: spec.tier: there is no Tier {tier}; apply it too, or first")
    there = {*tiers, *(ref.name for ref in result if ref.kind == "Tier")}
    complaints += [complaint[:MAX_COMPLAINT] for tier, complaint in wanted.items() if tier not in there]
    if complaints:
        more = [f"and {len(complaints) - MAX_COMPLAINTS} more"] if len(complaints) > MAX_COMPLAINTS else []
        raise InvalidArgument("\n".join([*complaints[:MAX_COMPLAINTS], *more]))
    return list(result.values()), conditions


def _ref(ref: Ref) -> policy_pb2.ObjectRef:
    return policy_pb2.ObjectRef(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def _conditions(conditions: Iterable[tuple[Ref, Condition]]) -> list[policy_pb2.Condition]:
    return [policy_pb2.Condition(object=_ref(ref), path=condition.path, message=condition.message)
            for ref, condition in conditions]
