"""How an API server is reached, and as whom: the same from a kubeconfig, in a pod, or from a CNI configuration.

All of it is read anew whenever it may have changed (certificates and tokens are rotated under one's feet), so a source
of credentials is a function that reads, and Access is what it read at one moment.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from muslin.errors import FailedPrecondition, InvalidArgument, IOFailure, NotFound

__all__ = ["Access", "Load", "content", "in_cluster", "secret"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the credentials of a pod's service account."""

_LONGEST = 1 << 20
"""Bytes of a file of credentials; certificates and tokens have a few thousand."""


@dataclass(frozen=True, slots=True)
class Access:
    """An API server and credentials. What is secret does not show in its text."""

    server: str
    """`https://host[:port][/path]`, without a slash at the end."""
    source: str
    """Where this was read, for people: `kubeconfig /etc/kubernetes/kubelet.conf`."""
    ca: bytes = field(default=b"", repr=False)
    """PEM of the authorities that the server's certificate may be of; empty for the system's."""
    server_name: str = ""
    """In the server's certificate, if that is not the host."""
    insecure: bool = False
    """The server's certificate is not looked at."""
    certificate: bytes = field(default=b"", repr=False)
    """PEM of the client's, with its chain; empty for none."""
    key: bytes = field(default=b"", repr=False)
    """PEM, likewise."""
    token: str = field(default="", repr=False)
    """Bearer token; empty for none."""

    def __post_init__(self) -> None:
        """Check what would only show in a failed handshake.

        Raises:
            InvalidArgument: naming what is wrong.
        """
        try:
            parts = urlsplit(self.server)
            port = parts.port
        except ValueError as problem:
            raise InvalidArgument(f"{self.source}: server {self.server!r}: {problem}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InvalidArgument(f"{self.source}: server {self.server!r} is not a URL; write it as "
                                  "https://host:6443")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InvalidArgument(f"{self.source}: the server's URL may have a host, a port and a path, and no more")
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise InvalidArgument(f"{self.source}: there is no client {missing}; certificate and key belong together")
        if parts.scheme == "http" and self.token and not _loopback(parts.hostname):
            raise InvalidArgument(f"{self.source}: a token is not sent to {self.server}, which is not encrypted; use "
                                  "https")


Load = Callable[[], Access]
"""Reads credentials as they are now. Raises MuslinError that names the file and the field."""


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def content(path: Path, what: str) -> bytes:
    """A file of credentials; `what` names the field that names it.

    Raises:
        NotFound, IOFailure, InvalidArgument: it can not be read, or is no such file.
    """
    try:
        if path.is_dir():
            raise InvalidArgument(f"{what}: {path} is a directory; name a file")
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise InvalidArgument(f"{what}: {path} is no regular file; name one")
        with path.open("rb") as file:
            read = file.read(_LONGEST + 1)
    except FileNotFoundError:
        raise NotFound(f"{what}: {path} does not exist") from None
    except OSError as problem:
        raise IOFailure(f"{what}: {path}: {problem.strerror}") from None
    if len(read) > _LONGEST:
        raise InvalidArgument(f"{what}: {path} has more than {_LONGEST} bytes: it is no file of credentials")
    return read


def secret(path: Path, what: str) -> str:
    """A token in a file. Raises as `content` does, and InvalidArgument if there is none in it."""
    return token(content(path, what).decode(errors="replace").strip(), f"{what}: {path}")


def token(text: str, what: str) -> str:
    """A token, checked to be one line of a header. Raises InvalidArgument, which does not show it."""
    if not text:
        raise InvalidArgument(f"{what}: the token is empty")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidArgument(f"{what}: not a token: it holds white space or characters beyond ASCII")
    return text


def in_cluster(place: Path = SERVICE_ACCOUNT) -> Load:
    """The service account of the pod that this runs in."""
    def load() -> Access:
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise FailedPrecondition("--kubernetes in-cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are "
                                     "not set, as they are in a pod; outside one use --kubeconfig")
        name = f"[{host}]" if ":" in host else host
        what = "--kubernetes in-cluster"
        return Access(f"https://{name}:{port}", "the service account of this pod",
                      ca=content(place / "ca.crt", what), token=secret(place / "token", what))
    return load
