"""The door: every call is judged by the table before its handler sees it, those in tunnels too."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from muslin.errors import Corrupt, Denied, Exhausted, MuslinError, Unauthenticated
from muslin.rpc.access import RULES, refusal
from muslin.rpc.identity import NODE_METADATA, Caller, Role, caller_of
from muslin.rpc.refusals import refused

__all__ = ["Guard", "Undecodable", "decoder"]

Context = grpc.aio.ServicerContext[Any, Any]

NODE_MOST = 4 << 20
"""Bytes of a message from a node: a hundred times the largest that a node daemon or the plugin sends."""


class Undecodable:
    """In the place of a request that does not decode."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem


def decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """The decoder, giving Undecodable where it would raise: what raises within gRPC is nobody's to explain."""
    if decode is None:
        return None

    def guarded(raw: bytes) -> Any:
        try:
            return decode(raw)
        except DecodeError as problem:
            return Undecodable(problem)
    return guarded


class Guard:
    """Of one method of one server."""

    def __init__(self, method: str, own: Callable[[], frozenset[str]]) -> None:
        """`own` gives the names of the services that the server serves itself; others it passes on."""
        self._method, self._own = method, own
        rule = RULES.get(method)
        self._nodes = rule.nodes if rule else None

    def admit(self, context: Context) -> Caller:
        """Raises Denied, Unauthenticated if the caller may not call this, or not for the node that it says."""
        caller = caller_of(context)
        if caller.role is Role.LOCAL:
            return caller
        service = self._method[1:].partition("/")[0]
        passed_on = service.startswith("muslin.") and service != "muslin.rpc.v1.Tunnel" and service not in self._own()
        if why := refusal(self._method, caller, passed_on=passed_on):
            if caller.role is Role.NOBODY:
                raise self._refuse("unknown caller", caller, context, Unauthenticated(why))
            raise self._refuse("role", caller, context, Denied(why))
        if caller.node:
            for key, value in context.invocation_metadata() or ():
                if key == NODE_METADATA and value != caller.node:
                    said = value if isinstance(value, str) else value.decode(errors="replace")
                    raise self._refuse("other node", caller, context, Denied(
                        f"{self._method}: the certificate is that of node {caller.node}, and the call is for node "
                        f"{said!r}"))
        return caller

    def check(self, request: Any, caller: Caller, context: Context) -> None:
        """Raises Corrupt, Exhausted, Denied if it is no request, too large a one, or about another node."""
        if isinstance(request, Undecodable):
            raise self._refuse("malformed", caller, context, Corrupt(
                f"{self._method}: the request does not decode: {request.problem}"))
        if not caller.node:
            return
        size = len(request) if isinstance(request, bytes) else request.ByteSize()
        if size > NODE_MOST:
            raise self._refuse("oversized", caller, context, Exhausted(
                f"{self._method}: a request of {size:,} bytes; a node's may have {NODE_MOST:,}"))
        if self._nodes and (others := [node for node in self._nodes(request) if node != caller.node]):
            raise self._refuse("other node", caller, context, Denied(
                f"{self._method}: the certificate is that of node {caller.node}, and the request is about "
                f"{', '.join(map(repr, others))}"))

    async def checked(self, requests: AsyncIterator[Any], caller: Caller, context: Context) -> AsyncIterator[Any]:
        """A stream of requests, each checked."""
        async for request in requests:
            self.check(request, caller, context)
            yield request

    def _refuse(self, reason: str, caller: Caller, context: Context, error: MuslinError) -> MuslinError:
        refused(reason, f"{caller.name or 'nobody'} at {context.peer()}", error.message)
        return error
