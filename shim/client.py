"""Calls to the services: one connection per socket, opened when first needed and used for all calls after."""

from __future__ import annotations

from shim import unary
from shim.errors import DEADLINE_EXCEEDED, UNAVAILABLE, RpcError
from shim.transport import Broken, Refused, Transport, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from shim.deadline import Deadline

_RACE = 0.05  # seconds: the server keeps our deadline too, and its word for it may be here before ours


class Client:
    """The services, by name. Use it as `chain.Caller`."""

    def __init__(self, targets: Mapping[str, str], traceparent: str) -> None:
        """`targets` maps each service to the path of its socket; services with the same path share a connection."""
        self._targets = targets
        self._traceparent = traceparent
        self._open: dict[str, Transport] = {}

    def __call__(self, service: str, verb: str, request: bytes, deadline: Deadline) -> bytes:
        """Call a verb of a service and return the bytes of its response.

        Raises:
            RpcError: DEADLINE_EXCEEDED or UNAVAILABLE naming the socket, or the service's own status.
        """
        path = self._targets[service]
        allowed = deadline.left()
        try:
            try:
                return self._call(path, service, verb, request, deadline)
            except Refused:  # so once more: a daemon that is being replaced answers so
                self._drop(path)
                return self._call(path, service, verb, request, deadline)
        except TimeoutError:
            raise _late(path, allowed) from None
        except RpcError as error:
            if error.status == DEADLINE_EXCEEDED and deadline.left() < _RACE:
                raise _late(path, allowed) from None
            if error.status in (DEADLINE_EXCEEDED, UNAVAILABLE):
                error.message += f" (from unix:{path})"
            raise
        except Unreachable as problem:
            raise RpcError(UNAVAILABLE, f"can not connect to unix:{path}: {problem}") from None
        except (Refused, Broken) as problem:
            self._drop(path)
            raise RpcError(UNAVAILABLE, f"no answer from unix:{path}: {problem}") from None

    def close(self) -> None:
        """Close all connections."""
        for path in list(self._open):
            self._drop(path)

    def _call(self, path: str, service: str, verb: str, request: bytes, deadline: Deadline) -> bytes:
        transport = self._open.get(path)
        if transport is None:
            transport = self._open[path] = Transport(path, unary.LARGEST_MESSAGE + 5, deadline)
        return unary.call(transport, f"/muslin.{service}.v1.Plugin/{verb}", request, self._traceparent, deadline)

    def _drop(self, path: str) -> None:
        if transport := self._open.pop(path, None):
            transport.close()


def _late(path: str, allowed: float) -> RpcError:
    return RpcError(DEADLINE_EXCEEDED, f"no answer from unix:{path} within {allowed:.1f} s")
