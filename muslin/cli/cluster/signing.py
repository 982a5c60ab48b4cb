"""Nodes' certificates: requests are followed, judged, and answered with a certificate or with why there is none."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Any

from muslin.cli.certs.authority import Authority
from muslin.cli.certs.subjects import Subject
from muslin.cli.cluster import names
from muslin.cli.cluster.requests import Refused, node_of, pod_of
from muslin.errors import MuslinError, NotFound
from muslin.etcd.backoff import Backoff
from muslin.kube.client import Client, Listing
from muslin.kube.installed import PLACED, REQUESTS, Request
from muslin.kube.kinds import Kind, Name
from muslin.kube.reflector import Reflector

__all__ = ["KIND", "Signer"]

log = logging.getLogger(__name__)

KIND: Kind[Request] = Kind(REQUESTS.kind, REQUESTS.version, REQUESTS.plural, Request,
                           fields=f"spec.signerName={names.SIGNER}")
_TIMEOUT = 10.0
"""Seconds for one request to the API server."""


class Signer:
    """Answers the requests of our signer, one after the other. `run()` does it, in a task of the owner's."""

    def __init__(self, client: Client, namespace: str, authority: Callable[[], Authority], days: int) -> None:
        """`authority` gives the one that signs now; `days` are those that a certificate is valid for."""
        self._client, self._namespace = client, namespace
        self._authority, self._days = authority, days
        self._waiting: asyncio.Queue[Request] = asyncio.Queue()
        self.reflector = Reflector(client, KIND, self)

    # What the reflector tells.

    def listed(self, listing: Listing[Request]) -> None:
        """As Sink."""
        for request in listing.objects:
            self.put(request)

    def put(self, item: Request) -> None:
        """As Sink."""
        if not item.certificate and not item.has("Denied") and not item.has("Failed"):
            self._waiting.put_nowait(item)

    def damaged(self, name: Name) -> None:
        """As Sink: what can not be read is not signed."""

    def gone(self, name: Name) -> None:
        """As Sink: who made it does not want it any more."""

    def excused(self) -> None:
        """As Sink; the kind is not optional."""

    async def run(self) -> None:
        """Answer until cancelled."""
        backoff = Backoff(0.2, 10.0)
        while True:
            request = await self._waiting.get()
            try:
                await self._answer(request)
                backoff.reset()
            except MuslinError as problem:
                log.warning("request %s is not answered yet: %s", request.metadata.name, problem.message)
                await asyncio.sleep(backoff.next())
                await self._again(request)

    async def _again(self, request: Request) -> None:
        """Take it up again as it is now, if it still is."""
        try:
            found = await self._client.get(KIND, request.name, _TIMEOUT)
        except MuslinError:
            found = request
        if found is not None:
            self.put(found)

    async def _answer(self, request: Request) -> None:
        name = request.metadata.name
        node = await self._judged(request)
        if isinstance(node, Refused):
            log.warning("request %s is refused: %s", name, node.reason)
            await self._say(name, "Denied", node.reason)
            return
        try:
            signed = self._authority().answer(
                Subject(node, f"node:{node}"), base64.b64decode(request.spec.request), self._days)
        except ValueError as problem:
            log.warning("request %s of node %s is refused: %s", name, node, problem)
            await self._say(name, "Denied", f"it can not be signed: {problem}")
            return
        if not request.has("Approved"):
            await self._say(name, "Approved", f"made by the agent of node {node}")
        await self._patch(f"{name}/status", {"certificate": base64.b64encode(signed).decode()})
        log.info("request %s: signed for node %s", name, node)

    async def _judged(self, request: Request) -> str | Refused:
        pod = pod_of(request, self._namespace)
        if isinstance(pod, Refused):
            return pod
        return node_of(request, await self._client.get(PLACED, (self._namespace, pod), _TIMEOUT))

    async def _say(self, name: str, condition: str, message: str) -> None:
        await self._patch(f"{name}/approval", {"conditions": [
            {"type": condition, "status": "True", "reason": "Muslin", "message": message}]})

    async def _patch(self, part: str, status: dict[str, Any]) -> None:
        try:
            await self._client.patch(f"{KIND.path()}/{part}", {"status": status}, _TIMEOUT)
        except NotFound:
            log.info("request %s is gone", part.partition("/")[0])
