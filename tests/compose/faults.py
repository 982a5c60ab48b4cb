"""The faults: what is broken and how, and which nodes can not be expected to go on meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.compose.stack import ETCD, NODES, REPLICAS, Stack

__all__ = ["FAULTS", "Fault"]


SLOW = 0.05
"""Seconds that each way of a slow line takes."""


@dataclass(frozen=True)
class Fault:
    """One row of the matrix.

    Inside the context that `broken` gives the fault lasts; at its end all is mended. `victims` are nodes that wait
    for the end; the others have to go on while it lasts.
    """

    name: str
    broken: Callable[[Stack], AbstractContextManager[None]]
    victims: tuple[str, ...] = ()
    seconds: float = 6.0
    """How long the fault lasts at least."""


def _once(act: Callable[[Stack], None]) -> Callable[[Stack], AbstractContextManager[None]]:
    """A fault that is over when it is done."""
    @contextlib.contextmanager
    def broken(stack: Stack) -> Iterator[None]:
        act(stack)
        yield
    return broken


def _killed(service: str) -> Fault:
    return Fault(f"{service} killed", lambda stack: stack.killed(service))


def _frozen(service: str) -> Fault:
    return Fault(f"{service} frozen", lambda stack: stack.frozen(service))


def _restart_all(stack: Stack) -> None:
    stack.restart(*ETCD, *REPLICAS)
    for node in NODES:
        stack.kill_daemon(node)
    # Nine interpreters start at once: how long that takes is the machine's matter, and told apart.
    stack.started()


def _upgrade(stack: Stack) -> None:
    for service in REPLICAS:
        stack.replace(service)
    for node in NODES:
        stack.kill_daemon(node)


FAULTS = (
    *(_killed(service) for service in REPLICAS),
    *(_frozen(service) for service in REPLICAS),
    *(_killed(member) for member in ETCD),
    Fault("leader of etcd killed", lambda stack: stack.killed(stack.leader())),
    Fault("leader of etcd frozen", lambda stack: stack.frozen(stack.leader())),
    Fault("daemon of node1 killed", _once(lambda stack: stack.kill_daemon("node1"))),
    Fault("daemon of node1 frozen", lambda stack: stack.frozen_daemon("node1"), victims=("node1",)),
    Fault("ipam1 cut from etcd", lambda stack: stack.cut("ipam1", 2379)),
    Fault("endpoint1 cut from etcd", lambda stack: stack.cut("endpoint1", 2379)),
    Fault("policy1 cut from etcd", lambda stack: stack.cut("policy1", 2379)),
    Fault("node1 cut from policy", lambda stack: stack.cut("node1", 7403), victims=("node1",)),
    Fault("node1 cut from all services", lambda stack: stack.cut("node1", 7401, 7402, 7403), victims=("node1",)),
    Fault("slow between node1 and all services", lambda stack: stack.slow("node1", 7401, 7402, 7403, seconds=SLOW)),
    Fault("slow between ipam1 and etcd", lambda stack: stack.slow("ipam1", 2379, seconds=SLOW)),
    Fault("all certificates renewed", _once(lambda stack: stack.renew())),
    Fault("everything restarted", _once(_restart_all), victims=NODES, seconds=0.0),
    Fault("every service upgraded, one by one", _once(_upgrade), seconds=0.0),
)
