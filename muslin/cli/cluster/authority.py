"""`muslin cluster authority`: certificates of all processes in a cluster, and etcd's users, for as long as it runs."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from muslin.cli.certs.subjects import ETCD_ROOT
from muslin.cli.cluster import names
from muslin.cli.cluster.keeper import Keeper
from muslin.cli.cluster.persisting import persist
from muslin.cli.cluster.signing import Signer
from muslin.etcd import Members
from muslin.etcd.auth import set_up
from muslin.etcd.backoff import Backoff
from muslin.kube.access import in_cluster
from muslin.kube.client import Client
from muslin.kube.installed import CONFIG_MAPS, PLACED
from muslin.tasks import TaskSet
from muslin.tls import named

__all__ = ["Wanted", "run"]

log = logging.getLogger(__name__)

_ROUND = 600.0
"""Seconds between two looks at everything: what somebody deletes is back by then."""
_TIMEOUT = 10.0
"""Seconds for one request to the API server."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What it is to do."""

    namespace: str
    folder: Path
    """In memory, for keys while they are written."""
    days: int
    renew: int
    etcd: tuple[str, ...]
    """Its members, if their certificates and users are ours to make."""


async def run(wanted: Wanted) -> int:
    """Work until cancelled; ends with 1 if a part of it died."""
    client = Client(in_cluster())
    keeper = Keeper(client, wanted.namespace, wanted.folder, days=wanted.days, renew=wanted.renew,
                    etcd=bool(wanted.etcd))
    signer = Signer(client, wanted.namespace, lambda: keeper.authority, wanted.days)
    tasks = TaskSet()
    made = asyncio.Event()
    try:
        tasks.spawn("certificates", _keep(keeper, made))
        await _first(made, tasks)
        tasks.spawn("requests", signer.reflector.run())
        tasks.spawn("signing", signer.run())
        if wanted.etcd:
            tasks.spawn("etcd", _equip(client, keeper, wanted))
        await tasks.failed
        return 1
    finally:
        await tasks.aclose()
        await client.aclose()


async def _first(made: asyncio.Event, tasks: TaskSet) -> None:
    """Wait for the first certificates: before, there is no authority that could sign."""
    waiting = asyncio.ensure_future(made.wait())
    await asyncio.wait((waiting, tasks.failed), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _keep(keeper: Keeper, made: asyncio.Event) -> None:
    """Keep the certificates for ever."""
    while True:
        await persist(keeper.keep, Backoff(0.2, 30.0), log, "certificates are not looked after")
        if not made.is_set():
            log.info("all certificates are there")
        made.set()
        await asyncio.sleep(_ROUND)


async def _equip(client: Client, keeper: Keeper, wanted: Wanted) -> None:
    """Have etcd's users, and it written down where its data lie, for ever."""
    members = Members.of(wanted.etcd, named(*keeper.files(ETCD_ROOT), "etcd"))

    async def once() -> None:
        for line in await set_up(members):
            log.info("etcd: %s", line)
        await _note_places(client, wanted.namespace, len(wanted.etcd))

    while True:
        await persist(once, Backoff(0.5, 10.0), log, "etcd has not its users yet")
        await asyncio.sleep(_ROUND)


async def _note_places(client: Client, namespace: str, members: int) -> None:
    """Write down on which node each member has its data, once: it is not to begin anew elsewhere, with none."""
    noted = await client.get(CONFIG_MAPS, (namespace, names.ETCD_NODES), _TIMEOUT)
    known = dict(noted.data or {}) if noted else {}
    new = {}
    for member in (f"{names.member(number)}-0" for number in range(members)):  # its pod
        if member not in known and (pod := await client.get(PLACED, (namespace, member), _TIMEOUT)) and pod.node:
            new[member] = pod.node
    if not new:
        return
    if noted is None:
        await client.create(f"/api/v1/namespaces/{namespace}/configmaps", {
            "apiVersion": "v1", "kind": "ConfigMap", "data": new,
            "metadata": {"name": names.ETCD_NODES, "labels": {"app.kubernetes.io/part-of": "muslin"}}}, _TIMEOUT)
    else:
        await client.patch(CONFIG_MAPS.path((namespace, names.ETCD_NODES)), {"data": new}, _TIMEOUT)
    log.info("etcd: data of %s", ", ".join(f"{member} on {node}" for member, node in new.items()))
