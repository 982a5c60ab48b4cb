"""The part of the address manager's API that is about upkeep: messages to values and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.ipam.v1 import ipam_pb2, ipam_pb2_grpc
from services.ipam.upkeep.checker import Problem
from services.ipam.upkeep.collector import Suspect
from services.ipam.upkeep.rounds import Outcome

if TYPE_CHECKING:
    from services.ipam.server import IpamApp

Context = grpc.aio.ServicerContext[Any, Any]


class UpkeepApi(ipam_pb2_grpc.IpamServicer):
    """The methods, each documented where the service is defined."""

    _app: IpamApp

    async def Collect(self, request: ipam_pb2.CollectRequest, context: Context) -> ipam_pb2.CollectResponse:
        """Look for what nobody claims."""
        outcomes = await self._app.upkeep.collect(dry_run=request.dry_run)
        return ipam_pb2.CollectResponse(findings=[_finding(outcome) for outcome in sorted(outcomes, key=_order)])

    async def Check(self, request: ipam_pb2.CheckRequest, context: Context) -> ipam_pb2.CheckResponse:
        """Compare the records with each other and with what is in use."""
        upkeep = self._app.upkeep
        cluster = await upkeep.repair.cluster()
        compared, revision = await upkeep.repair.check()
        return ipam_pb2.CheckResponse(report=ipam_pb2.Report(
            created_ms=upkeep.clock.wall_ms(), revision=revision, cluster=cluster, allocated=compared.allocated,
            in_use=compared.in_use, problems=map(_message, compared.problems)))

    async def ReleaseReported(self, request: ipam_pb2.ReleaseReportedRequest,
                              context: Context) -> ipam_pb2.ReleaseReportedResponse:
        """Free what a report says is nobody's."""
        report = request.report
        freed, skipped = await self._app.upkeep.repair.release(
            [_problem(line) for line in report.problems], report.created_ms, report.revision, report.cluster)
        return ipam_pb2.ReleaseReportedResponse(addresses=freed, skipped=map(_message, skipped))

    async def Rebuild(self, request: ipam_pb2.RebuildRequest, context: Context) -> ipam_pb2.RebuildResponse:
        """Make records anew from what is in use."""
        return ipam_pb2.RebuildResponse(actions=await self._app.upkeep.repair.rebuild(dry_run=request.dry_run))


def _order(outcome: Outcome) -> tuple[bool, str]:
    subject = outcome.finding.subject
    return (False, subject.identity) if isinstance(subject, Suspect) else (True, subject.cidr)


def _finding(outcome: Outcome) -> ipam_pb2.Finding:
    finding = outcome.finding
    message = ipam_pb2.Finding(reason=finding.reason, since_ms=finding.since_ms, freed=outcome.freed)
    if isinstance(suspect := finding.subject, Suspect):
        message.handle.CopyFrom(_handle(suspect))
    else:
        message.block = suspect.cidr
    return message


def _handle(suspect: Suspect) -> ipam_pb2.Handle:
    network, container_id, ifname = suspect.identity.split("/")
    return ipam_pb2.Handle(
        attachment=cni_pb2.Attachment(network=network, container_id=container_id, ifname=ifname), node=suspect.node,
        addresses=[held.address for held in suspect.held], created_ms=suspect.created_ms,
        kept_until_ms=suspect.kept_until_ms, held=_held(suspect))


def _held(suspect: Suspect) -> Iterable[ipam_pb2.Held]:
    return (ipam_pb2.Held(address=held.address, block=held.block, sequence=held.sequence) for held in suspect.held)


def _message(problem: Problem) -> ipam_pb2.Problem:
    return ipam_pb2.Problem(kind=problem.kind, subject=problem.subject, detail=problem.detail,  # type: ignore[arg-type]  # an enum's number
                            handle=problem.handle, sequence=problem.sequence)


def _problem(message: ipam_pb2.Problem) -> Problem:
    return Problem(message.kind, message.subject, message.detail, message.handle, message.sequence)
