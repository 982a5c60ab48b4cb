"""What a service is, as far as serving it goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from muslin.tasks import TaskSet


@dataclass
class Part:
    """One condition that readiness is made of, such as `etcd`."""

    name: str
    changed: Callable[[], None]
    ready: bool = False
    message: str = "starting"

    def set(self, ready: bool, message: str = "") -> None:
        """Report a change; repeating the same is free."""
        if (ready, message) != (self.ready, self.message):
            self.ready, self.message = ready, message
            self.changed()


@dataclass
class Readiness:
    """The parts of one service. It is ready when all of them are."""

    parts: dict[str, Part] = field(default_factory=dict)
    listeners: list[Callable[[], None]] = field(default_factory=list)

    def part(self, name: str) -> Part:
        """A part, not ready until it says so; the same part for the same name."""
        if name not in self.parts:
            self.parts[name] = Part(name, self._changed)
            self._changed()
        return self.parts[name]

    @property
    def ready(self) -> bool:
        """Whether every part is."""
        return all(part.ready for part in self.parts.values())

    def _changed(self) -> None:
        for listener in self.listeners:
            listener()


class App(ABC):
    """A service: what it serves, and what it needs before and after."""

    name: str
    """Such as `muslin-ipam`; in logs and metrics."""

    def __init__(self) -> None:
        self.tasks = TaskSet()

    @abstractmethod
    async def start(self, readiness: Readiness) -> None:
        """Prepare. Runs before the first request; raises if the service can not come up."""

    @abstractmethod
    def register(self, server: grpc.aio.Server) -> tuple[str, ...]:
        """Add the servicers and return the full names of the gRPC services, for health."""

    @abstractmethod
    async def stop(self) -> None:
        """Close what `start` opened. Runs after the last request; `tasks` are closed after it."""
