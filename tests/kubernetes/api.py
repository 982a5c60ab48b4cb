"""The API server of a node, asked from this process: quicker than kubectl, and it tells of changes as they come."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from http.client import HTTPResponse, HTTPSConnection
from typing import Any

from muslin import netns
from tests.kubernetes.machine import ADDRESS
from tests.kubernetes.node import API_PORT, Node

__all__ = ["Api"]

_SECONDS = 60.0
_PATCH = "application/merge-patch+json"


class Api:
    """As the administrator. Each thread that uses it has a connection of its own."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._context = ssl.create_default_context(cadata=node.authority.certificate)
        certificate, key = node.authority.issue("admin", ["system:masters"])
        pair = node.directory / "logs" / "admin.pem"
        pair.touch(0o600)
        pair.write_text(certificate + key)
        self._context.load_cert_chain(pair)
        self._local = threading.local()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request. Raises AssertionError with what was answered if that is an error."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        answer = _send(self._local.connection, method, path, body)
        said = answer.read()
        assert answer.status < 300, f"{method} {path}: {answer.status} {said.decode()}"
        return dict(json.loads(said))

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """Events of a kind in a namespace, from what is there now on, until the server ends it or the caller does."""
        connection = self._connect()
        try:
            answer = _send(connection, "GET", f"{path}?watch=true", None)
            assert answer.status == 200, answer.read()
            while line := answer.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _connect(self) -> HTTPSConnection:
        plain = netns.open_socket(self._node.netns, socket.AF_INET, socket.SOCK_STREAM)
        plain.settimeout(_SECONDS)
        plain.connect((ADDRESS, API_PORT))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = HTTPSConnection(ADDRESS, API_PORT)
        connection.sock = self._context.wrap_socket(plain, server_hostname=ADDRESS)
        return connection


def _send(connection: HTTPSConnection, method: str, path: str, body: dict[str, Any] | None) -> HTTPResponse:
    connection.request(method, path, None if body is None else json.dumps(body).encode(),
                       {"Content-Type": _PATCH if method == "PATCH" else "application/json"})
    return connection.getresponse()
