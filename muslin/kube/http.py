"""HTTP with an API server: the one module that imports aiohttp (docs/adr/0011-http-client.md).

One object is one set of credentials on one server. Connections are kept; a peer that has gone without a word is noticed
by TCP's keepalive, and by the deadlines that every request has.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from muslin.errors import InvalidArgument, TimedOut, Unavailable
from muslin.kube.access import Access
from muslin.kube.failures import refusal

__all__ = ["Body", "Http", "Response"]

_CONNECT = 5.0
"""Seconds in which a connection must be there, encryption included."""
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3),
              (socket.TCP_USER_TIMEOUT, 30_000))
"""A peer that acknowledges nothing is gone after 30 s, whether we wait for it or have sent it something."""
_BUFFER = 1 << 20
"""Bytes of an answer that are read ahead."""
_REFUSAL = 64 << 10
"""Bytes of a refusal that are read at most."""

_GOOD = (200, 201, 202)
"""Of answers to what is asked, made and changed."""

Response = AsyncIterator[bytes]
"""The body, in pieces as they come."""


@dataclass(frozen=True, slots=True)
class Body:
    """What is written."""

    method: str
    """POST or PATCH."""
    type: str
    """Media type: of a patch it says what kind it is."""
    content: bytes


class Http:
    """Requests to the server of `access`. Closed by its owner."""

    def __init__(self, access: Access) -> None:
        """Raises InvalidArgument if its certificates are none."""
        self.access = access
        """Another token may take the place of the one in it."""
        self._requests = 0
        self._retired = False
        connector = aiohttp.TCPConnector(ssl=_context(access), limit=0, keepalive_timeout=60.0,
                                         socket_factory=_socket)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, read_bufsize=_BUFFER,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            # An API server compresses what is long, which on a local network costs both sides more than it saves.
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "muslin"})

    async def aclose(self) -> None:
        """End the connections."""
        await self._session.close()

    async def retire(self) -> None:
        """End the connections once no request is under way on them."""
        self._retired = True
        if not self._requests:
            await self.aclose()

    async def get(self, path: str, query: Mapping[str, str], timeout: float) -> bytes:
        """The body of an answer.

        Raises:
            Unavailable, TimedOut: no answer, or the server can not give one now.
            MuslinError: what the server says is wrong.
        """
        async with self.streamed(path, query, timeout) as pieces:
            return b"".join([piece async for piece in pieces])

    async def send(self, path: str, body: Body, timeout: float) -> bytes:
        """The body of the answer to something that is written.

        Raises:
            Unavailable, TimedOut: whether it was written is not known.
            MuslinError: what the server says is wrong.
        """
        async with self.streamed(path, {}, timeout, body) as pieces:
            return b"".join([piece async for piece in pieces])

    @asynccontextmanager
    async def streamed(self, path: str, query: Mapping[str, str], timeout: float,
                       body: Body | None = None) -> AsyncIterator[Response]:
        """The body of an answer piece by piece, until it ends, for `timeout` seconds at most. Without a body: GET.

        Raises:
            Unavailable, TimedOut: no answer, it broke off, or the server can not give one now.
            MuslinError: what the server says is wrong.
        """
        method = body.method if body else "GET"
        what = f"the API server {self.access.server}: {method} {path}"
        headers = {"Authorization": f"Bearer {self.access.token}"} if self.access.token else {}
        if body:
            headers["Content-Type"] = body.type
        self._requests += 1
        try:
            async with asyncio.timeout(timeout), self._session.request(
                    method, self.access.server + path, params=query, headers=headers, allow_redirects=False,
                    data=body.content if body else None, server_hostname=self.access.server_name or None) as answer:
                if answer.status not in _GOOD:
                    raise refusal(answer.status, await _beginning(answer.content), answer.headers.get("Retry-After"),
                                  what, self.access.source)
                yield answer.content.iter_any()
        except TimeoutError:
            raise TimedOut(f"{what}: no answer within {timeout:.3g} s") from None
        except aiohttp.ClientConnectorCertificateError as problem:
            raise Unavailable(f"{what}: its certificate is not accepted: {_said(problem.certificate_error)}; see the "
                              f"authority in {self.access.source}") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise Unavailable(f"{what}: {_said(problem)}") from None
        finally:
            self._requests -= 1
            if self._retired:
                await self.retire()


async def _beginning(body: aiohttp.StreamReader) -> bytes:
    read = b""
    while len(read) < _REFUSAL and (piece := await body.readany()):
        read += piece
    return read


def _said(problem: BaseException) -> str:
    return str(problem) or type(problem).__name__


def _socket(info: Any) -> socket.socket:
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _context(access: Access) -> ssl.SSLContext | bool:
    """How the connection is encrypted. Raises InvalidArgument, naming where a certificate that is none comes from."""
    if access.server.startswith("http:"):
        return True
    what = "the authority's certificate"
    try:
        context = ssl.create_default_context(cadata=access.ca.decode("ascii") if access.ca else None)
        what = "the client's certificate and key"
        if access.certificate:
            _identify(context, access)
    except (ssl.SSLError, ValueError, OSError) as problem:
        raise InvalidArgument(f"{access.source}: {what} can not be used: {_said(problem)}") from None
    if access.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _identify(context: ssl.SSLContext, access: Access) -> None:
    """Give the context our certificate. The ssl module takes a file only: one in memory, which nobody else can open."""
    handle = os.memfd_create("muslin")
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(access.certificate.rstrip() + b"\n" + access.key)
        # An encrypted key would make OpenSSL ask on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{handle}", password=lambda: "")
    finally:
        os.close(handle)
