"""A cluster's certificates for tests, made by the code that `muslin certs` runs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import grpc

from muslin.cli.certs import authority, directory
from muslin.cli.certs.subjects import Subject, subjects
from muslin.tls import Files

__all__ = ["Certificates", "expired"]


class Certificates:
    """All of `muslin certs`, and what else is asked for, below a folder."""

    def __init__(self, folder: Path, nodes: Sequence[str] = ("n1", "n2")) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self.make()

    def make(self, *, days: int = 365, renew: float = 30, more: Sequence[Subject] = ()) -> list[str]:
        """As the command; what was done."""
        return list(directory.write(self.folder, [*subjects(self.nodes, ()), *more], days=days, renew=renew))

    def renew(self) -> None:
        """New certificates and keys for everybody, of the same authority."""
        self.make(renew=1000)

    def files(self, name: str) -> Files:
        """Of one of them."""
        place = self.folder / name
        return Files(place / "tls.crt", place / "tls.key", place / "ca.crt")

    def options(self, name: str, prefix: str = "tls") -> list[str]:
        """The same as a command's options."""
        files = self.files(name)
        return [f"--{prefix}-cert={files.certificate}", f"--{prefix}-key={files.key}",
                f"--{prefix}-ca={files.authority}"]

    def credentials(self, name: str, *, trusted: Path | None = None) -> grpc.ChannelCredentials:
        """The same for calling; `trusted` are other authorities."""
        files = self.files(name)
        return grpc.ssl_channel_credentials((trusted or files.authority).read_bytes(), files.key.read_bytes(),
                                            files.certificate.read_bytes())


def expired(certificates: Certificates, name: str) -> None:
    """Make a certificate one that has ended a day ago."""
    class Then(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) - timedelta(days=2)

    (certificates.folder / name / "tls.crt").unlink()
    with mock.patch.object(authority, "datetime", Then):
        certificates.make(days=1, renew=0)
