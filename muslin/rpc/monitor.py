"""HTTP for those who watch a service: /metrics for Prometheus, /livez and /readyz for Kubernetes' httpGet probes.

Nothing can be changed by it, and nothing that it tells is secret; so there is no TLS, which probes could not do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import make_wsgi_app, start_http_server

from muslin.errors import InvalidArgument
from muslin.rpc.app import Readiness

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["Monitor"]

_PATIENCE = 5.0
"""Seconds until the event loop counts as stuck."""


class Monitor:
    """What is answered, from threads of its own: they answer also when the event loop does not."""

    def __init__(self, readiness: Readiness) -> None:
        """Made in the event loop that it watches."""
        self._readiness, self._loop = readiness, asyncio.get_running_loop()
        self._metrics: WSGIApplication = make_wsgi_app()
        self.phase = "starting"
        """Why it is not ready, whatever its parts say; empty while it serves."""

    def listen(self, address: str) -> None:
        """Serve at `host:port`, for as long as the process lives; without a host on the loopback.

        Raises:
            InvalidArgument: that is no address.
            OSError: it can not be had.
        """
        host, _, port = address.rpartition(":")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise InvalidArgument(f"--metrics {address} must be HOST:PORT, such as 127.0.0.1:9100 or [::]:9100")
        server, _ = start_http_server(int(port), host.strip("[]") or "127.0.0.1")
        server.set_app(self)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request (PEP 3333)."""
        path = environ.get("PATH_INFO", "")
        if path in ("/livez", "/readyz"):
            well, text = self._asked(ready=path == "/readyz")
            start_response("200 OK" if well else "503 Service Unavailable", [("Content-Type", "text/plain")])
            return [f"{text}\n".encode()]
        if path in ("/", "/metrics"):
            return self._metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There are /metrics, /livez and /readyz.\n"]

    def _asked(self, *, ready: bool) -> tuple[bool, str]:
        """Whether all is well, and what is not."""
        try:
            said = asyncio.run_coroutine_threadsafe(self._said(), self._loop).result(_PATIENCE)
        except (TimeoutError, RuntimeError):  # the second: the loop is closed
            return False, f"the event loop does not answer within {_PATIENCE:g} s"
        return not ready or (self._readiness.ready and not self.phase), said

    async def _said(self) -> str:
        return "\n".join([self.phase or "serving", *(
            f"{part.name}: {'ready' if part.ready else 'not ready'}{f' ({part.message})' if part.message else ''}"
            for part in self._readiness.parts.values())])
