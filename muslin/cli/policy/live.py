"""The world that runs, and the places where its objects were written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path

from muslin.api.policy.v1 import policy_pb2
from muslin.cli.client import Services, services
from muslin.cli.play.flows import PlayedPort
from muslin.cli.play.record import Records
from muslin.cli.policy.world import Declared, World
from muslin.errors import MuslinError
from muslin.kube.convert import policy_object
from muslin.kube.manifest import load
from muslin.kube.objects import Namespace, NetworkPolicy, Origin

__all__ = ["running", "written"]


@asynccontextmanager
async def running(run: Path) -> AsyncIterator[tuple[Services, World]]:
    """The services of the `muslin up` on a run directory, and what they know. Raises Unavailable if there is none."""
    async with services(run) as up:
        endpoints, objects, pods = await up.endpoints(), await up.objects(), await up.pods()
        named = {f"{pod.namespace}/{pod.name}": pod.ports for pod in pods}
        ports = {pod: tuple(PlayedPort(port.protocol, port.port) for port in listed) for pod, listed in named.items()}
        ports |= {pod.key: tuple(pod.played_ports) for record in Records(up.places).all() for pod in record.pods}
        yield up, World(tuple(endpoints), tuple(written(objects)), ports)


def written(objects: Iterable[policy_pb2.Object]) -> list[Declared]:
    """The objects, with their lines where the file that they came from still says the same of them.

    Nothing about lines is stored: a file changes after it was applied, and a line of then would mislead. What stands in
    the file now is compared with what is in force, whole; where they differ, or the file is not there, only the origin
    is told.
    """
    found = list(objects)
    files = {message.origin.rpartition(", document ")[0] for message in found}
    places = {key: place for file in files for key, place in _read(file).items()}
    return [Declared(message, places.get((message.origin, message.kind, message.namespace, message.name,
                                          _normal(message.manifest)))) for message in found]


@lru_cache
def _read(file: str) -> dict[tuple[str, str, str, str, str], Origin]:
    """What a file declares, with each object's text; empty if there is no such file, or it can not be read."""
    if not file or not Path(file).is_file():
        return {}
    try:
        items = [item for item in load([file]).objects if isinstance(item, Namespace | NetworkPolicy)]
    except MuslinError:
        return {}
    messages = [(policy_object(item), item.origin) for item in items]
    return {(message.origin, message.kind, message.namespace, message.name, _normal(message.manifest)): origin
            for message, origin in messages}


def _normal(manifest: bytes) -> str:
    """A manifest in one way of writing it."""
    return json.dumps(json.loads(manifest), sort_keys=True)
