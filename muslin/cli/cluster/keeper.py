"""Certificates as Secrets: what `muslin certs` keeps in a folder is kept in the cluster's API server.

The folder is in memory, and filled from the Secrets each time. They are written in the order in which they are needed:
the authority before anything that it signs, what is trusted before what must be.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from muslin.cli.certs import directory
from muslin.cli.certs.authority import Authority, Pair
from muslin.cli.certs.subjects import ETCD_ROOT, OPERATOR, SERVICES, Subject
from muslin.cli.cluster import names
from muslin.errors import Corrupt, IOFailure
from muslin.kube.client import Client
from muslin.kube.installed import CONFIG_MAPS, SECRETS, ConfigMap, Secret
from muslin.kube.installed import SERVICES as KUBERNETES_SERVICES
from muslin.kube.kinds import Kind

__all__ = ["Keeper", "subjects"]

log = logging.getLogger(__name__)

_TIMEOUT = 10.0
"""Seconds for one request to the API server."""
_HERE = ("localhost", "127.0.0.1", "::1")
_FILES = ("tls.crt", "tls.key", "ca.crt")
_OWN = ("ca.crt", "ca.key")


def subjects(addresses: Mapping[str, Sequence[str]], namespace: str, *, etcd: bool) -> list[Subject]:
    """Who gets a certificate in a Secret.

    `addresses` are the cluster addresses of services, by their names in the cluster; `etcd` is whether its members are
    ours to equip.
    """
    found = [Subject(name, name, _hosts([names.service(name)], addresses, namespace)) for name in SERVICES]
    found.append(Subject(OPERATOR, OPERATOR))
    if etcd:
        members = sorted(name for name in addresses if name.startswith(f"{names.ETCD}-"))
        found += [Subject("etcd", "etcd", _hosts(members, addresses, namespace)), Subject(ETCD_ROOT, "root")]
    return found


def _hosts(services: Sequence[str], addresses: Mapping[str, Sequence[str]], namespace: str) -> tuple[str, ...]:
    own = [host for name in services for host in (name, f"{name}.{namespace}", f"{name}.{namespace}.svc")]
    return (*own, *_HERE, *(address for name in services for address in addresses.get(name, ())))


class Keeper:
    """One authority, and what it signs for services."""

    def __init__(self, client: Client, namespace: str, folder: Path, *, days: int, renew: int, etcd: bool) -> None:
        """`folder` is in memory.

        `days` are those that a certificate is valid for; one that ends within `renew` days is replaced.
        """
        self._client, self._namespace, self._folder = client, namespace, folder
        self._days, self._renew, self._etcd = days, renew, etcd

    def files(self, name: str) -> tuple[Path, Path, Path]:
        """Certificate, key and authorities of a subject, once `keep()` was called."""
        return tuple(self._folder / name / file for file in _FILES)  # type: ignore[return-value]  # there are three

    @property
    def authority(self) -> Authority:
        """The one that signs now. Raises IOFailure if it can not be read."""
        try:
            own = [(self._folder / file).read_bytes() for file in _OWN]
            return Authority(Pair(own[0], own[1]))
        except (OSError, ValueError) as problem:
            raise IOFailure(f"the authority can not be read: {problem}") from problem

    async def keep(self) -> None:
        """Have all certificates, valid for a while, in the cluster.

        Raises:
            MuslinError: what of the API server's is in the way; repeat it.
        """
        services = await self._client.list(replace(KUBERNETES_SERVICES, namespace=self._namespace))
        addresses = {each.metadata.name: each.addresses for each in services.objects}
        wanted = subjects(addresses, self._namespace, etcd=self._etcd)
        there = {name: await self._read(name) for name in [names.AUTHORITY, *(names.secret(s.name) for s in wanted)]}
        self._fill(self._folder, there[names.AUTHORITY], _OWN)
        for subject in wanted:
            self._fill(self._folder / subject.name, there[names.secret(subject.name)], _FILES)
        for said in directory.write(self._folder, wanted, days=self._days, renew=self._renew):
            if not said.endswith(": kept"):
                log.info("%s", said)
        await self._store(names.AUTHORITY, there[names.AUTHORITY], self._folder, _OWN)
        await self._publish()
        for subject in wanted:
            secret = names.secret(subject.name)
            await self._store(secret, there[secret], self._folder / subject.name, _FILES)

    async def _read(self, name: str) -> Secret | None:
        return await self._client.get(SECRETS, (self._namespace, name), _TIMEOUT)

    def _fill(self, folder: Path, secret: Secret | None, files: Sequence[str]) -> None:
        """Have in the folder what is in the Secret: it counts, and not what an earlier round left."""
        if secret is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files:
            content = secret.content(file)
            if content is None:
                if files is _OWN:
                    raise Corrupt(f"secret {secret.metadata.name} has no {file}: put it back, or delete the secret for "
                                  "an authority that nobody knows yet")
                (folder / file).unlink(missing_ok=True)
            else:
                path = folder / file
                path.touch(mode=0o600)
                path.write_bytes(content)

    async def _store(self, name: str, before: Secret | None, folder: Path, files: Sequence[str]) -> None:
        wanted = {file: (folder / file).read_bytes() for file in files}
        if before is not None and all(before.content(file) == content for file, content in wanted.items()):
            return
        data = {file: base64.b64encode(content).decode() for file, content in wanted.items()}
        await self._write(SECRETS, name, before, data)

    async def _publish(self) -> None:
        """Let everybody know whom to trust."""
        before = await self._client.get(CONFIG_MAPS, (self._namespace, names.CA), _TIMEOUT)
        data = {"ca.crt": (self._folder / "ca.crt").read_text()}
        if before is None or (before.data or {}) != data:
            await self._write(CONFIG_MAPS, names.CA, before, data)

    async def _write(self, kind: Kind[Secret] | Kind[ConfigMap], name: str, before: Secret | ConfigMap | None,
                     data: Mapping[str, str]) -> None:
        """Raises Conflict if somebody else has written it since."""
        metadata = {"name": name, "namespace": self._namespace, "labels": {"app.kubernetes.io/part-of": "muslin"}}
        item = {"apiVersion": kind.version, "kind": kind.kind, "metadata": metadata, "data": data}
        if before is None:
            await self._client.create(kind.path((self._namespace, "")).rstrip("/"), item, _TIMEOUT)
        else:
            await self._client.patch(kind.path((self._namespace, name)), {
                "metadata": {"resourceVersion": before.metadata.resource_version}, "data": data}, _TIMEOUT)
        log.info("%s %s: %s", kind.kind, name, "made" if before is None else "changed")
