"""A node's certificate: a key that never leaves the node, signed by the cluster's authority.

The files lie in the node's state, so a daemon that is started anew needs nobody to have them.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
from pathlib import Path

from muslin.cli.certs import authority
from muslin.cli.certs.directory import put
from muslin.cli.cluster import names
from muslin.cli.cluster.persisting import persist
from muslin.errors import Corrupt, Denied, NotFound, TimedOut
from muslin.etcd.backoff import Backoff
from muslin.kube.client import Client
from muslin.kube.installed import CONFIG_MAPS, REQUESTS

__all__ = ["Identity"]

log = logging.getLogger(__name__)

_TIMEOUT = 10.0
"""Seconds for one request to the API server."""
_ANSWER = 120.0
"""Seconds until a request that nobody answers is given up for a new one."""
_LOOK = 3600.0
"""Seconds between two looks at what is left of the certificate."""


class Identity:
    """The certificate of a node in three files: tls.crt, tls.key and ca.crt."""

    def __init__(self, client: Client, namespace: str, node: str, folder: Path, renew: int) -> None:
        """It is replaced when it ends within `renew` days."""
        self._client, self._namespace, self._node = client, namespace, node
        self._folder, self._renew = folder, renew
        self._certificate, self._key, self._ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))

    async def have(self) -> None:
        """Have a certificate that is good, however long that takes. One that is needs no API server."""
        if self.complaint():
            await persist(self.renew, Backoff(0.2, 10.0), log, "no certificate yet")

    async def keep(self) -> None:
        """Look after it for ever: renew it in time, and know who is trusted."""
        while True:
            await persist(self._look, Backoff(60.0, 60.0), log, "the certificate is not looked after")
            await asyncio.sleep(_LOOK)

    async def _look(self) -> None:
        await self._trust()
        if self.complaint():
            await self.renew()

    def complaint(self) -> str:
        """Why what is there is not good for a while; empty if it is."""
        try:
            certificate, key, ca = (path.read_bytes() for path in (self._certificate, self._key, self._ca))
            if not authority.fits(certificate, key):
                return "certificate and key do not fit"
            if not authority.issued_by(certificate, ca):
                return "it is not of an authority that is trusted"
            left = authority.days_left(certificate)
        except FileNotFoundError:
            return "there is none"
        except (OSError, ValueError) as problem:
            return str(problem)
        return "" if left > self._renew else f"it ends in {left:.1f} days"

    async def renew(self) -> None:
        """Get a new one.

        Raises:
            Denied: the authority refuses it.
            TimedOut: it does not answer.
            MuslinError: nor does the API server.
        """
        await self._trust()
        key, request = authority.make_request(f"node:{self._node}")
        certificate = await self._signed(request)
        if not authority.fits(certificate, key) or not authority.issued_by(certificate, self._ca.read_bytes()):
            raise Corrupt("what was signed is not for our key, or not by an authority that is trusted")
        put(self._key, key, 0o600)  # who reads between the two keeps what it has
        put(self._certificate, certificate, 0o644)
        log.info("new certificate of node %s: %.0f days", self._node, authority.days_left(certificate))

    async def _trust(self) -> None:
        """Have the authorities that are trusted."""
        found = await self._client.get(CONFIG_MAPS, (self._namespace, names.CA), _TIMEOUT)
        bundle = ((found.data or {}) if found else {}).get("ca.crt", "")
        if not bundle:
            raise NotFound(f"there is no ConfigMap {names.CA} yet, which the authority makes")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        put(self._ca, bundle.encode(), 0o644)

    async def _signed(self, request: bytes) -> bytes:
        name = f"muslin-node-{self._node[:200]}-{secrets.token_hex(4)}"
        await self._client.create(REQUESTS.path(), {
            "apiVersion": REQUESTS.version, "kind": REQUESTS.kind,
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "muslin"}},
            "spec": {"request": base64.b64encode(request).decode(), "signerName": names.SIGNER,
                     "usages": ["digital signature", "client auth"]}}, _TIMEOUT)
        backoff, ends = Backoff(0.1, 2.0), asyncio.get_running_loop().time() + _ANSWER
        while asyncio.get_running_loop().time() < ends:
            found = await self._client.get(REQUESTS, ("", name), _TIMEOUT)
            if found is None:
                raise NotFound(f"request {name} was deleted")
            if found.certificate:
                return found.certificate
            if found.has("Denied") or found.has("Failed"):
                raise Denied(f"request {name} was refused: {found.said}")
            await asyncio.sleep(backoff.next())
        raise TimedOut(f"request {name}: no answer of the authority within {_ANSWER:.0f} s")
