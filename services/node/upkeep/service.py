"""Upkeep as the rest of the daemon sees it: told what is wired and unwired, asked what is amiss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import grpc

from muslin.api.cni.v1 import cni_pb2
from muslin.api.endpoint.v1 import endpoint_pb2
from muslin.cni import collect, netconf
from muslin.cni.invocation import Invocation
from muslin.errors import IOFailure, MuslinError
from muslin.rpc import Readiness
from muslin.tasks import TaskSet
from services.node.attachment import Attachment
from services.node.attachments import Attachments
from services.node.enforcer import Enforcer
from services.node.kernel import Kernel
from services.node.netlink.links import Link
from services.node.upkeep.chain import Chain
from services.node.upkeep.events import Monitor
from services.node.upkeep.gate import Gate
from services.node.upkeep.journal import Journal, Waiting
from services.node.upkeep.mirror import Mirror
from services.node.upkeep.reconciler import Reconciler
from services.node.upkeep.records import Records, boot_id, from_endpoint, of_add
from services.node.upkeep.replay import Replay
from services.node.upkeep.status import Standing
from services.node.wiring_plan import Wiring

__all__ = ["Upkeep"]

log = logging.getLogger(__name__)

DELETIONS_AT_ONCE = 32
"""Of one GC."""


class Upkeep:
    """All of it, on one event loop."""

    def __init__(self, node: str, channels: Mapping[str, grpc.aio.Channel], kernel: Kernel, enforcer: Enforcer,
                 attachments: Attachments, monitor: Monitor, run: Path, state: Path) -> None:
        """`channels` by service. Below `run` the records are kept, below `state` deletions wait."""
        self._attachments = attachments
        self._enforcer = enforcer
        self._delete: Callable[[cni_pb2.Call], Awaitable[None]] = _nobody
        self._unwire: Callable[[Attachment], Awaitable[None]] = _nobody
        self._standing: Standing | None = None
        self.gate = Gate()
        self.records = Records(run / "attachments", boot_id())
        self._mirror = Mirror(node, channels["endpoint"])
        self._mirror.listener = self._told
        chain = Chain(node, channels, self._own)
        self._replay = Replay(Journal(state / "deletions"), chain, self.gate)
        self._reconciler = Reconciler(kernel, enforcer, attachments, self.records, self._mirror, chain, self.gate,
                                      monitor)

    def serve(self, delete: Callable[[cni_pb2.Call], Awaitable[None]],
              unwire: Callable[[Attachment], Awaitable[None]]) -> None:
        """Say how this daemon deletes: as a call asks, and an attachment that it knows. Both raise MuslinError."""
        self._delete, self._unwire = delete, unwire

    def adopt(self, owned: Mapping[Attachment, Link], readiness: Readiness) -> None:
        """What was found wired at the start. Raises IOFailure if the records can not be read."""
        try:
            self.records.load()
        except OSError as error:
            raise IOFailure(f"records of attachments: {error}; see --run-dir") from error
        self._standing = Standing(readiness)
        for attachment, link in owned.items():
            self._attachments.add(attachment, link.name)
            self._reconciler.wired(attachment, link.index)

    def start(self, tasks: TaskSet) -> None:
        """Begin, once the daemon can delete."""
        tasks.spawn("records", self._mirror.run())
        tasks.spawn("deletions", self._replay.run())
        tasks.spawn("reconciler", self._reconciler.run(tasks))

    def wired(self, invocation: Invocation, wiring: Wiring, index: int) -> None:
        """An ADD has wired an attachment; it is locked."""
        self.records.put(of_add(invocation, wiring, self.records.boot))
        self._reconciler.wired(wiring.attachment, index)
        self.gate.over((invocation.container_id, invocation.ifname))

    def leaving(self, attachment: Attachment) -> None:
        """An attachment is about to be unwired; it is locked."""
        self._reconciler.leaving(attachment)

    def left(self, attachment: Attachment) -> None:
        """It is unwired."""
        self.records.remove([attachment])
        self._reconciler.left(attachment)
        self.gate.over((attachment.container_id, attachment.ifname))

    @property
    def waiting(self) -> Waiting:
        """Deletions that wait."""
        return self._replay.waiting

    @property
    def problems(self) -> list[str]:
        """What is amiss and not to be put in order by this daemon."""
        return self._reconciler.problems

    def check(self) -> None:
        """The STATUS verb. Raises Unavailable, FailedPrecondition as Standing has it."""
        if self._standing and (problem := self._standing.problem(enforcing=self._enforcer.enforcing)):
            raise problem

    async def collect(self, config: bytes) -> None:
        """The GC verb: unwire what a configuration's network has here and its list of the living has not.

        Raises:
            Corrupt, InvalidArgument: the configuration; nothing has been freed.
            MuslinError: of the kind of the first failure, and naming all; everything else is freed.
        """
        conf, alive = netconf.parse(config), collect.valid(config)
        if alive is None:
            return
        dead = [attachment for attachment in sorted({*self._attachments.interfaces, *self.records.all()})
                if attachment.network == conf.name and (attachment.container_id, attachment.ifname) not in alive]
        slots = asyncio.Semaphore(DELETIONS_AT_ONCE)

        async def free(attachment: Attachment) -> MuslinError | None:
            async with slots:
                try:
                    await self._unwire(attachment)
                except MuslinError as error:
                    return error
            log.info("freed %s, which the runtime does not know any more", attachment)
            return None

        results = await asyncio.gather(*map(free, dead))
        failed = [(attachment, error) for attachment, error in zip(dead, results, strict=True) if error is not None]
        if failed:
            words = "; ".join(f"{attachment}: {error.message}" for attachment, error in failed)
            raise type(failed[0][1])(f"{len(failed)} of {len(dead)} attachments could not be freed: {words}")

    async def _own(self, call: cni_pb2.Call) -> None:
        await self._delete(call)

    def _told(self, endpoint: endpoint_pb2.WorkloadEndpoint) -> None:
        """The endpoint service has a record: of what is wired here, keep what it says."""
        attachment = Attachment.from_message(endpoint.attachment)
        interface = self._attachments.interfaces.get(attachment)
        if interface is None or self._attachments.busy(attachment):
            return
        known = self.records.get(attachment)
        if known is None and endpoint.host_interface != interface:
            return  # a record that does not say how it is wired
        record = from_endpoint(endpoint, self.records.boot, known)
        try:
            _ = record.wiring
        except ValueError as error:
            log.warning("the endpoint service's record of %s is damaged: %s", attachment, error)
            return
        self.records.put(record)


async def _nobody(_: object) -> None:
    raise IOFailure("the daemon has not started")
