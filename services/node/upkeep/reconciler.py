"""Keeps what is wired as it was wired, and cleans up what nobody deletes.

It looks at the whole host every few seconds, and at once when the kernel tells that something of ours was deleted:

- the host's end of a pod is put in order: link, settings, routes, neighbours;
- the rules of a pod whose veth is gone go; if its namespace is gone as well nobody may ever delete it, so after two
  looks all services are asked to, as by DEL;
- a link that is ours and unknown is adopted, one that was never finished deleted;
- a record that the endpoint service has lost is given back, one of a pod that is not here deleted, after two looks.

What is being added or deleted at the time is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

from muslin.errors import MuslinError
from muslin.tasks import TaskSet
from services.node import metrics
from services.node.attachment import Attachment
from services.node.attachments import Attachments
from services.node.enforce.state import Claim, Release
from services.node.enforcer import Enforcer
from services.node.kernel import Kernel, delete_together
from services.node.upkeep.chain import Chain, call_of, passing
from services.node.upkeep.events import Gone, Monitor
from services.node.upkeep.gate import Gate
from services.node.upkeep.host import Difference, Host, compare, look, mend
from services.node.upkeep.mirror import Mirror
from services.node.upkeep.records import Record, Records
from services.node.upkeep.sightings import Sightings
from services.node.wiring import UNFINISHED_GROUP

__all__ = ["Reconciler"]

log = logging.getLogger(__name__)

LOOK_SECONDS = 3.0
"""Between two looks at everything: what takes two of them is done within ten seconds."""

SETTLE_SECONDS = 0.03
"""After the kernel told of a deletion: who deletes one thing often deletes more."""

LOOKING_SHARE = 0.2
"""Of the time, at most, however much the kernel tells: on a host with many routes of others that may be much."""


class Reconciler:
    """The one that looks. Its maps are changed by it and by the verbs, all on the event loop."""

    def __init__(self, kernel: Kernel, enforcer: Enforcer, attachments: Attachments, records: Records, mirror: Mirror,
                 chain: Chain, gate: Gate, monitor: Monitor) -> None:
        self._kernel, self._enforcer, self._attachments = kernel, enforcer, attachments
        self._records, self._mirror, self._chain, self._gate = records, mirror, chain, gate
        self._node = mirror.node
        self._wake = asyncio.Event()
        self._cleaning: asyncio.Task[None] | None = None
        self._links: dict[Attachment, int] = {}
        self._indexes: dict[int, Attachment] = {}
        self._problems: dict[tuple[str, Attachment], str] = {}
        self._strangers: Sightings[Attachment] = Sightings()
        self._unfinished: Sightings[int] = Sightings()
        self._vanished: Sightings[Attachment] = Sightings()
        self._missing: Sightings[Attachment] = Sightings()
        self._stray: Sightings[Attachment] = Sightings()
        monitor.listener = self._told

    @property
    def problems(self) -> list[str]:
        """What is amiss and can not be, or is not to be, put in order by this daemon; for people."""
        return [f"{attachment}: {words}" for (_, attachment), words in sorted(self._problems.items())]

    def wired(self, attachment: Attachment, index: int) -> None:
        """An attachment's link is there, and to be looked after."""
        self.leaving(attachment)
        self.left(attachment)  # what was amiss with an earlier link of it
        self._links[attachment] = index
        self._indexes[index] = attachment

    def leaving(self, attachment: Attachment) -> None:
        """An attachment's link is about to be deleted: what the kernel tells of it means nothing."""
        index = self._links.pop(attachment, None)
        if index is not None and self._indexes.get(index) == attachment:
            del self._indexes[index]

    def left(self, attachment: Attachment) -> None:
        """Nothing is amiss with an attachment any more."""
        for kind in ("gone", "wiring", "record"):
            self._problems.pop((kind, attachment), None)

    def _told(self, gone: list[Gone] | None) -> None:
        if gone is None:
            metrics.OVERRUNS.inc()
        if gone is None or any(each.index in self._indexes for each in gone):
            self._wake.set()

    async def run(self, tasks: TaskSet) -> None:
        """Look, for ever. What has to ask other services is a task of its own: they may take their time."""
        loop = asyncio.get_running_loop()
        due, took = loop.time(), 0.0
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
                await asyncio.sleep(max(SETTLE_SECONDS, took / LOOKING_SHARE))
            except TimeoutError:
                pass
            self._wake.clear()
            everything = loop.time() >= due
            if everything:
                due = loop.time() + LOOK_SECONDS
            began = loop.time()
            try:
                host = await self._look()
                if everything and (self._cleaning is None or self._cleaning.done()):
                    self._cleaning = tasks.spawn("cleaning", self._clean_up(host))
            except MuslinError as error:
                log.warning("can not look after what is wired: %s", error)
            took = loop.time() - began

    async def _look(self) -> Host:
        links, records = dict(self._links), self._records.all()
        host = await self._kernel.run(partial(look, wirings=[record.wiring for record in records.values()]))
        found = Counter[str]()
        for attachment, index in links.items():
            # What an operation has changed since is another look's affair.
            if self._links.get(attachment) == index and not self._attachments.busy(attachment):
                await self._one(host, attachment, index, records.get(attachment), found)
        for what, times in found.items():
            metrics.REPAIRS.labels(what).inc(times)
        return host

    async def _clean_up(self, host: Host) -> None:
        """What takes two looks to be sure."""
        try:
            await self._strange(host)
            await self._gone(host)
            if self._mirror.current:
                await self._given_back()
                await self._swept(host)
        except MuslinError as error:
            log.warning("can not clean up: %s", error)
        metrics.LOST_LINKS.set(sum(kind == "gone" for kind, _ in self._problems))

    async def _one(self, host: Host, attachment: Attachment, index: int, record: Record | None,
                   found: Counter[str]) -> None:
        end = host.of(attachment, index)
        if end is None:
            await self._attachments.run(attachment, lambda: self._lost(attachment, index))
        elif record is not None:
            differences = compare(end, record.wiring)
            if differences:
                found.update(difference.what for difference in differences)
                await self._attachments.run(
                    attachment, lambda: self._mend(record, end.link.index, index, differences))
            else:
                self._problems.pop(("wiring", attachment), None)

    async def _lost(self, attachment: Attachment, index: int) -> None:
        if self._links.get(attachment) != index:
            return
        record = self._records.get(attachment)
        interface = self._attachments.interfaces.get(attachment) or (record.host_interface if record else "")
        log.warning("the veth %s of %s is gone: somebody deleted it, or the pod's namespace", interface, attachment)
        self.leaving(attachment)
        self._attachments.remove(attachment)
        self._enforcer.submit(Release(attachment))
        self._problems["gone", attachment] = _gone_words(interface)

    async def _mend(self, record: Record, there: int, index: int, differences: list[Difference]) -> None:
        attachment = record.attachment
        if self._links.get(attachment) != index:
            return
        words = "; ".join(difference.words for difference in differences)
        try:
            await self._kernel.run(partial(mend, wiring=record.wiring, index=there))
        except MuslinError as error:
            words = f"{words}; and the kernel refuses to put it in order: {error}"
            if self._problems.get(("wiring", attachment)) != words:
                log.error("the wiring of %s was changed: %s", attachment, words)  # noqa: TRY400  its words say it
            self._problems["wiring", attachment] = words
        else:
            self._problems.pop(("wiring", attachment), None)
            log.warning("somebody changed the wiring of %s, it is in order again: %s", attachment, words)

    def _idle(self, attachment: Attachment) -> bool:
        return not self._attachments.busy(attachment) and not self._gate.busy(_key(attachment))

    async def _strange(self, host: Host) -> None:
        """Links that are ours and unknown, and those that were never finished."""
        owned = host.owned
        unknown = {attachment: link.index for attachment, link in owned.items()
                   if attachment not in self._attachments.interfaces and self._idle(attachment)}
        for attachment in self._strangers.look(unknown):
            await self._attachments.run(attachment, partial(self._adopt, attachment, owned[attachment].name,
                                                            unknown[attachment]))
        begun = {end.link.index: end.link.name for end in host.ends if end.link.group == UNFINISHED_GROUP}
        for index in self._unfinished.look(begun):
            log.warning("veth %s was never finished, and is deleted", begun[index])
            metrics.CLEANED.labels("link").inc()
            await self._kernel.run(partial(delete_together, indexes=[index], group=0))

    async def _adopt(self, attachment: Attachment, interface: str, index: int) -> None:
        if attachment in self._attachments.interfaces or index in self._indexes:
            return
        log.warning("veth %s of %s is there and was not known: adopted", interface, attachment)
        self._attachments.add(attachment, interface)
        self.wired(attachment, index)
        self._enforcer.submit(Claim(attachment, interface))

    async def _gone(self, host: Host) -> None:
        """Records of attachments that are not wired any more."""
        owned = host.owned
        lost = {attachment: record for attachment, record in self._records.all().items()
                if attachment not in self._attachments.interfaces and attachment not in owned
                and self._idle(attachment)}
        for key in [key for key in self._problems if key[0] == "gone" and key[1] not in lost]:
            del self._problems[key]
        for attachment, record in lost.items():
            self._problems.setdefault(("gone", attachment), _gone_words(record.host_interface))
        dead = {attachment: record.boot for attachment, record in lost.items() if record.sandbox_gone}
        for attachment in self._vanished.look(dead):
            if not await self._clean(lost[attachment]):
                break  # the services are away

    async def _clean(self, record: Record) -> bool:
        """As DEL would, for a pod whose namespace is gone; False if it has to wait."""
        attachment = record.attachment
        async with self._gate.closed(_key(attachment)) as ours:
            if not ours or self._records.get(attachment) != record or attachment in self._attachments.interfaces:
                return True
            failures = await self._chain.delete(call_of(attachment, record.netns, record.args))
        if any(map(passing, failures)):
            log.info("%s, whose namespace is gone, can not be cleaned up yet: %s", attachment,
                     "; ".join(failure.message for failure in failures))
            # The own part is done, with the record: what is left needs it.
            self._records.put(record)
            return False
        for failure in failures:
            log.error("cleaning up %s: %s", attachment, failure.message)
        self._records.remove([attachment])
        self._problems.pop(("gone", attachment), None)
        metrics.CLEANED.labels("pod").inc()
        log.info("cleaned up %s, whose namespace is gone", attachment)
        return True

    async def _given_back(self) -> None:
        """Records of pods that are wired here, and that the endpoint service has not."""
        held = self._records.all()
        missing = {attachment: index for attachment, index in self._links.items()
                   if attachment not in self._mirror.records and self._idle(attachment)}
        sure = self._missing.look(missing)
        for attachment in sure:
            if attachment not in held:
                self._problems["record", attachment] = ("it has no record, neither here nor at the endpoint service, "
                                                        "so no policy: make the pod anew")
        sure = [attachment for attachment in sure if attachment in held]
        if not sure:
            return
        try:
            answer = await self._mirror.restore([held[attachment].endpoint(self._node) for attachment in sure])
        except MuslinError as error:
            log.info("can not give back the records of %d attachments: %s", len(sure), error)
            return
        for message in answer.restored:
            attachment = Attachment.from_message(message)
            metrics.RESTORED.labels("ok").inc()
            self._problems.pop(("record", attachment), None)
            log.warning("the endpoint service had lost the record of %s: it has it again", attachment)
        for refusal in answer.refused:
            attachment, words = Attachment.from_message(refusal.attachment), f"it has no record: {refusal.reason}"
            if self._problems.get(("record", attachment)) != words:
                metrics.RESTORED.labels("refused").inc()
                log.error("%s: %s", attachment, words)
            self._problems["record", attachment] = words

    async def _swept(self, host: Host) -> None:
        """Records of this node of which there is nothing here."""
        owned, records = host.owned, self._mirror.records
        stray = {attachment: record.revision for attachment, record in records.items()
                 if attachment not in self._attachments.interfaces and attachment not in owned
                 and self._records.get(attachment) is None and self._idle(attachment)}
        if stray:
            # What has an interface that is none of ours, or none at all, is no pod of the chain's.
            others = {end.link.name for end in host.ends if Attachment.from_alias(end.link.alias) is None} | {""}
            stray = {attachment: revision for attachment, revision in stray.items()
                     if records[attachment].host_interface not in others}
        for attachment in self._stray.look(stray):
            async with self._gate.closed(_key(attachment)) as ours:
                if not ours or attachment in self._attachments.interfaces:
                    continue
                try:
                    await self._mirror.delete(records[attachment])
                except MuslinError as error:
                    log.info("the record of %s, which is not here, can not be deleted: %s", attachment, error)
                    continue
            metrics.CLEANED.labels("record").inc()
            log.warning("the endpoint service had a record of %s, of which there is nothing here: deleted", attachment)
        for key in [key for key in self._problems if key[0] == "record" and (key[1] in records
                                                                            or key[1] not in self._links)]:
            del self._problems[key]


def _key(attachment: Attachment) -> tuple[str, str]:
    return attachment.container_id, attachment.ifname


def _gone_words(interface: str) -> str:
    return f"its veth {interface} is gone, and DEL has not come"
