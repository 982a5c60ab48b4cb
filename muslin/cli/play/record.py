"""Records of plays in the state directory: all that is needed to probe their pods again, and to remove them.

A record is written before the first pod is made and removed after the last is gone, so that `muslin down` finds what a
killed play left behind.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from muslin.cli.places import Places
from muslin.cli.play.cni import Network, Sandbox
from muslin.cli.play.flows import PlayedPort
from muslin.cli.process import Process
from muslin.errors import Corrupt

__all__ = ["PlayedPod", "Record", "Records"]


class PlayedPod(msgspec.Struct):
    """A pod of a play. `result` is what ADD printed; empty until it has."""

    sandbox: Sandbox
    netns_name: str
    ports: list[tuple[str, int]]
    address: str = ""
    result: bytes = b""
    node: str = ""
    """Where it is played, if that is another machine than this one: its agent there looks after it."""

    @property
    def key(self) -> str:
        """`namespace/pod`."""
        return self.sandbox.key

    @property
    def played_ports(self) -> list[PlayedPort]:
        """The ports it listens on."""
        return [PlayedPort(protocol, port) for protocol, port in self.ports]


class Record(msgspec.Struct):
    """A play."""

    name: str
    network: Network
    bin_dirs: list[str]
    player: Process
    pods: list[PlayedPod]
    objects: list[tuple[str, str, str]]
    """Kind, namespace and name of the namespaces and policies that came with it."""
    listeners: Process | None = None
    kept: bool = False


class Records:
    """The records of a state directory."""

    def __init__(self, places: Places) -> None:
        self._folder = places.plays

    @contextmanager
    def locked(self) -> Iterator[None]:
        """For looking at the records and adding one that fits beside them, without another doing the same."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def new_name(self) -> str:
        """A name that no other record has."""
        return secrets.token_hex(4)

    def write(self, record: Record) -> None:
        """Store a record, whole or not at all."""
        path = self._path(record.name)
        beside = path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(record))
        beside.replace(path)

    def remove(self, record: Record) -> None:
        """Forget a record; one that is not there is forgotten."""
        self._path(record.name).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """All records, by name. Raises Corrupt, naming the file."""
        found = []
        for path in sorted(self._folder.glob("*.json")) if self._folder.is_dir() else ():
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Record))
            except FileNotFoundError:
                continue  # it ended while we looked
            except msgspec.DecodeError as error:
                raise Corrupt(f"{path}: {error}; remove the file if nothing of that play is left") from None
        return found

    def kept(self) -> list[Record]:
        """Those of plays that are complete and kept."""
        return [record for record in self.all() if record.kept]

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
