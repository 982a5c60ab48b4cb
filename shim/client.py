"""Calls to the services: one connection per socket, opened when first needed and used for all calls after."""

from __future__ import annotations

from shim.errors import DEADLINE_EXCEEDED, UNAVAILABLE, RpcError
from shim.transport import Refused, Unreachable
from shim.tunnel import Tunnel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from shim.deadline import Deadline

    Call: TypeAlias = tuple[str, str, bytes]
    """A service, a method of its package such as `Plugin/Add`, and a request."""

_RACE = 0.05  # seconds: the server keeps our deadline too, and its word for it may be here before ours


class Client:
    """The services, by name. Use it as `chain.Caller`."""

    def __init__(self, targets: Mapping[str, str], traceparent: str, invocation: str = "") -> None:
        """`targets` maps each service to the path of its socket; services with the same path share a connection.

        `invocation` says of this run what the node daemon makes its span of.
        """
        self._targets = targets
        self._traceparent, self._invocation = traceparent, invocation
        self._open: dict[str, Tunnel] = {}

    def __call__(self, calls: Sequence[Call], deadline: Deadline) -> list[bytes | RpcError]:
        """Make calls at once, and wait for all of them.

        Returns for each the bytes of its response or what it came to instead: the service's own status, or
        DEADLINE_EXCEEDED or UNAVAILABLE naming the socket.
        """
        allowed = deadline.left()
        outcomes = self._together(calls, deadline)
        if refused := [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Refused)]:
            for number in refused:  # so once more: a daemon that is being replaced answers so
                self._drop(self._targets[calls[number][0]])
            for number, outcome in zip(refused, self._together([calls[number] for number in refused], deadline),
                                       strict=True):
                outcomes[number] = outcome
        return [outcome if isinstance(outcome, bytes) else self._error(call[0], outcome, deadline, allowed)
                for call, outcome in zip(calls, outcomes, strict=True)]

    def close(self) -> None:
        """Close all connections."""
        for path in list(self._open):
            self._drop(path)

    def _together(self, calls: Sequence[Call], deadline: Deadline) -> list[bytes | Exception]:
        outcomes: list[bytes | Exception] = [b""] * len(calls)
        paths: dict[str, list[int]] = {}
        for place, (service, _, _) in enumerate(calls):
            paths.setdefault(self._targets[service], []).append(place)
        asked: list[tuple[Tunnel, list[int], list[int]]] = []
        for path, places in paths.items():
            try:
                tunnel = self._open.get(path)
                if tunnel is None:
                    tunnel = self._open[path] = Tunnel(
                        path, self._traceparent, deadline,
                        self._invocation if path == self._targets.get("node") else "")
                numbers = tunnel.ask([(f"/muslin.{calls[place][0]}.v1.{calls[place][1]}", calls[place][2])
                                      for place in places], deadline)
            except (TimeoutError, Unreachable, Refused) as problem:
                for place in places:
                    outcomes[place] = problem
                continue
            asked.append((tunnel, places, numbers))
            if len(paths) > 1:  # waiting for an answer sends on its own connection only
                tunnel.transport.push()
        for tunnel, places, numbers in asked:
            for place, outcome in zip(places, tunnel.collect(numbers, deadline), strict=True):
                outcomes[place] = outcome
        return outcomes

    def _error(self, service: str, problem: Exception, deadline: Deadline, allowed: float) -> RpcError:
        path = self._targets[service]
        if isinstance(problem, RpcError):
            if problem.status == DEADLINE_EXCEEDED and deadline.left() < _RACE:
                return _late(path, allowed)
            if problem.status in (DEADLINE_EXCEEDED, UNAVAILABLE):
                problem.message += f" (from unix:{path})"
            return problem
        if isinstance(problem, TimeoutError):
            return _late(path, allowed)
        if isinstance(problem, Unreachable):
            return RpcError(UNAVAILABLE, f"can not connect to unix:{path}: {problem}", unasked=True)
        self._drop(path)
        return RpcError(UNAVAILABLE, f"no answer from unix:{path}: {problem}", unasked=isinstance(problem, Refused))

    def _drop(self, path: str) -> None:
        if tunnel := self._open.pop(path, None):
            tunnel.transport.close()


def _late(path: str, allowed: float) -> RpcError:
    return RpcError(DEADLINE_EXCEEDED, f"no answer from unix:{path} within {allowed:.1f} s")
