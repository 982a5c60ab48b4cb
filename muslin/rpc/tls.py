"""TLS of this process, as gRPC takes it. Both sides show a certificate; plaintext is for unix sockets.

A process is one identity, towards all whom it calls and all who call it, so it is set once, at its start.
"""

from __future__ import annotations

import grpc

from muslin.errors import FailedPrecondition
from muslin.tls import Certificates, Files, Material

__all__ = ["use", "own", "channel_credentials", "server_credentials"]

_own: Certificates | None = None


def use(files: Files | None) -> None:
    """Set what this process shows and trusts on TCP; None: it can neither serve nor call on TCP.

    Raises:
        FailedPrecondition: the files can not be used.
    """
    global _own
    _own = Certificates(files) if files else None


def own(purpose: str) -> Certificates:
    """What was set. Raises FailedPrecondition, naming the purpose, if nothing was."""
    if _own is None:
        raise FailedPrecondition(f"{purpose}: TCP needs a certificate: give --tls-cert, --tls-key and --tls-ca "
                                 "(`muslin certs` makes them), or use a unix socket")
    return _own


def channel_credentials(material: Material) -> grpc.ChannelCredentials:
    """For calling: trust the authorities, show the certificate."""
    return grpc.ssl_channel_credentials(material.authority, material.key, material.certificate)


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """For serving: every client must show a certificate that the authorities signed. New files count at once."""
    used = certificates.load()

    def changed() -> grpc.ServerCertificateConfiguration | None:  # asked before each handshake, in a thread of gRPC's
        nonlocal used
        if (material := certificates.load()) is used:
            return None
        used = material
        return _configuration(material)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), changed,  # type: ignore[arg-type]  # None means "as before"; the published types lack it
        require_client_authentication=True)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], material.authority)
